"""The entries of `training_info`: one of several training steps, and what starts it over."""

from __future__ import annotations

import onnx
from onnx import helper

from renom_onnx.converters.structure import replace_all, value_names
from renom_onnx.converters.training_info import with_graph
from renom_onnx.errors import ConversionError


def entry_index(model: onnx.ModelProto, entry: int | str) -> int:
    """Return the position of a training step, which is given by it or by the name of its algorithm.

    Raises:
        ConversionError: the model has no such step, or several of that name.
    """
    names = [info.algorithm.name for info in model.training_info]
    if isinstance(entry, str) and names.count(entry) == 1:
        return names.index(entry)
    if not isinstance(entry, str) and (0 <= entry < len(names) or not names):
        return entry
    raise ConversionError(
        f"training: training_info must be 0 to {len(names) - 1} or the name of one algorithm, got {entry!r}. There "
        f"are: {', '.join(names) or 'none'}."
    )


def with_entry(model: onnx.ModelProto, index: int) -> onnx.ModelProto:
    """Return the model with one of its training steps alone.

    What else may change is state of this step too, which it leaves as it is: weights that other steps train, and what
    only the initialization sets. So a session of one step sees what a session of another has done.
    """
    (info, others) = (
        model.training_info[index],
        [i for i in model.training_info if i is not model.training_info[index]],
    )
    tensors = {t.name: t for t in [*model.graph.initializer, *info.algorithm.initializer]}
    bound = {b.key for b in info.update_binding}
    weights = {t.name for t in model.graph.initializer}
    held = [b.key for other in others for b in other.update_binding if b.key in weights]
    held += [b.key for b in info.initialization_binding if b.key in tensors]
    held = [key for key in dict.fromkeys(held) if key not in bound]
    if not held and not others:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    chosen = onnx.TrainingInfoProto()
    chosen.CopyFrom(info)
    taken = {name for graph in (model.graph, info.algorithm) for name in value_names(graph)}
    for key in held:
        same = f"{key}.same"
        while same in taken:
            same += "_"
        chosen.algorithm.node.append(helper.make_node("Identity", [key], [same], name=same))
        value = helper.make_tensor_value_info(same, tensors[key].data_type, list(tensors[key].dims))
        chosen.algorithm.output.append(value)
        chosen.update_binding.add(key=key, value=same)
    replace_all(result.training_info, [chosen])
    return result


def initialization_model(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return the initialization of the first step as a model, and the output by the initializer that it sets."""
    info = model.training_info[0]
    bindings = {b.key: b.value for b in info.initialization_binding}
    return with_graph(model, info.initialization), bindings
