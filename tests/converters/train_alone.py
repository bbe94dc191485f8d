"""Train a file with numpy, onnx and onnxruntime alone; run as a script by test_training_alone.py.

python train_alone.py MODEL BATCHES RESULT inputs|rewritten

The training step is the concatenation of graph and algorithm, as https://onnx.ai/onnx/repo-docs/IR.html says. Mutable
initializers are made inputs of one session, or written anew into the model before every step.
"""

import sys

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper


def open_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def main(path: str, batches: str, result: str, way: str) -> None:
    model = onnx.load(path)
    info = model.training_info[0]
    step = onnx.ModelProto()
    step.CopyFrom(model)
    del step.training_info[:]
    for field in ("node", "initializer", "input", "output"):
        getattr(step.graph, field).extend(getattr(info.algorithm, field))

    bindings = {b.key: b.value for b in info.update_binding}
    tensors = {t.name: t for t in step.graph.initializer}
    state = {name: numpy_helper.to_array(tensors[name]) for name in bindings}
    fetches = ["loss", *bindings.values()]
    if way == "inputs":
        kept = [t for t in step.graph.initializer if t.name not in bindings]
        del step.graph.initializer[:]
        step.graph.initializer.extend(kept)
        for name, array in state.items():
            element = helper.np_dtype_to_tensor_dtype(array.dtype)
            step.graph.input.append(helper.make_tensor_value_info(name, element, array.shape))
        session = open_session(step)

    losses = []
    arrays = np.load(batches)
    for x, y in zip(arrays["x"], arrays["y"], strict=True):
        feeds = {"x": x, "y": y}
        if way == "inputs":
            feeds.update(state)
        else:
            for name, array in state.items():
                tensors[name].CopyFrom(numpy_helper.from_array(array, name))
            session = open_session(step)
        loss, *values = session.run(fetches, feeds)
        state = dict(zip(bindings, values, strict=True))
        losses.append(loss)
    np.savez(result, losses=np.array(losses), **state)
    assert not [name for name in sys.modules if name.split(".")[0] == "renom_onnx"]


if __name__ == "__main__":
    main(*sys.argv[1:])
