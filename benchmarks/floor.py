"""The floor of a step: its products and convolutions at the rate of this machine's matrix product."""

from __future__ import annotations

import statistics
import time

import numpy as np

SIZE = 1024


def gemm_rate(threads: int, repeats: int = 20) -> float:
    """Return the operations per second of onnxruntime's product of two float32 matrices of 1024 x 1024."""
    import onnx
    import onnxruntime
    from onnx import helper

    info = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [SIZE, SIZE]) for n in "aby"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["y"])], "gemm", info[:2], info[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    a = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype(np.float32)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        session.run(None, {"a": a, "b": a})
        seconds.append(time.perf_counter() - start)
    return 2 * SIZE**3 / statistics.median(seconds)
