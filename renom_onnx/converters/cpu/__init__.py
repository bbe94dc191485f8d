"""What a session on the CPU runs instead of a file's own nodes: forms that onnxruntime's kernels there are faster at.

Each module rewrites a step for which all sizes are known; `renom_onnx.runtime.specialization` says in which order.
Nothing of this is written into files.
"""
