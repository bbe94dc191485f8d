"""What the doctor says of dangerous files, word for word, without opening any other file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import renom_onnx as rm

Break = Callable[[onnx.ModelProto, Path], object]


def plain_model() -> onnx.ModelProto:
    """y = x w, with w of 12 floats."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", s]) for n, s in (("x", 3), ("y", 4)))
    w = numpy_helper.from_array(np.ones((3, 4), np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], name="node")], "g", [x], [y], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def findings(change: Break, folder: Path) -> list[tuple[str, str, str]]:
    model = plain_model()
    change(model, folder)
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return [(f.level, f.where, f.text) for f in rm.doctor(path, ask_cpu=False).findings]


def external(model: onnx.ModelProto, **entries: object) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def located(location: str, **entries: object) -> Break:
    return lambda model, folder: external(model, location=location, **entries)


def a_file(name: str, size: int = 48) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(bytes(size))


EXTERNAL: dict[str, tuple[Callable[[Path], object], Break, tuple[str, str]]] = {
    "fine": (a_file("w.bin"), located("w.bin"), ("note", "1 tensor in 'w.bin', beside the model.")),
    "fine, in a folder": (
        lambda folder: ((folder / "data").mkdir(), a_file("data/w.bin", 100)(folder)),
        located("data/w.bin", offset=52, length=48),
        ("note", "1 tensor in 'data/w.bin', beside the model."),
    ),
    "upwards": (
        a_file("w.bin"),
        located("../w.bin"),
        ("danger", "the data of 'w' are in '../w.bin', which leads out of the model's folder."),
    ),
    "upwards, within": (
        a_file("w.bin"),
        located("a/../../w.bin"),
        ("danger", "the data of 'w' are in 'a/../../w.bin', which leads out of the model's folder."),
    ),
    "upwards, for Windows": (
        a_file("w.bin"),
        located("..\\w.bin"),
        ("danger", "the data of 'w' are in '..\\\\w.bin', which leads out of the model's folder."),
    ),
    "absolute": (
        a_file("w.bin"),
        located("/etc/passwd"),
        ("danger", "the data of 'w' are in '/etc/passwd', an absolute path: a file may only read its own folder."),
    ),
    "absolute, for Windows": (
        a_file("w.bin"),
        located("C:\\w.bin"),
        ("danger", "the data of 'w' are in 'C:\\\\w.bin', an absolute path: a file may only read its own folder."),
    ),
    "nowhere": (
        a_file("w.bin"),
        lambda model, folder: external(model),
        ("danger", "the data of 'w' are elsewhere, and it is not said where."),
    ),
    "missing": (
        a_file("v.bin"),
        located("w.bin"),
        ("problem", "the data of 'w' are in 'w.bin', and there is no such file."),
    ),
    "a symbolic link": (
        lambda folder: (a_file("v.bin")(folder), (folder / "w.bin").symlink_to("v.bin")),
        located("w.bin"),
        ("danger", "the data of 'w' are in 'w.bin', behind the symbolic link 'w.bin', which may lead anywhere."),
    ),
    "a folder that is a link": (
        lambda folder: (folder / "data").symlink_to(folder.parent),
        located("data/w.bin"),
        ("danger", "the data of 'w' are in 'data/w.bin', behind the symbolic link 'data', which may lead anywhere."),
    ),
    "a hard link": (
        lambda folder: (a_file("v.bin")(folder), (folder / "w.bin").hardlink_to(folder / "v.bin")),
        located("w.bin"),
        ("danger", "the data of 'w' are in 'w.bin', a file with 2 names (hard links): it may be anybody's."),
    ),
    "a folder": (
        lambda folder: (folder / "w.bin").mkdir(),
        located("w.bin"),
        ("danger", "the data of 'w' are in 'w.bin', which is no regular file."),
    ),
    "a pipe": (
        lambda folder: os.mkfifo(folder / "w.bin"),
        located("w.bin"),
        ("danger", "the data of 'w' are in 'w.bin', which is no regular file."),
    ),
    "too long": (
        a_file("w.bin", 47),
        located("w.bin"),
        ("danger", "the data of 'w' are in 'w.bin', from byte 0 on 48 bytes, of a file with 47."),
    ),
    "before the file": (
        a_file("w.bin"),
        located("w.bin", offset=-8),
        ("danger", "the data of 'w' are in 'w.bin', from byte -8 on 48 bytes, of a file with 48."),
    ),
    "another length": (
        a_file("w.bin", 100),
        located("w.bin", length=96),
        ("danger", "the data of 'w' are in 'w.bin' with 96 bytes, and its sizes ask for 48."),
    ),
    "no number": (
        a_file("w.bin"),
        located("w.bin", offset="many"),
        ("danger", "the data of 'w' are in 'w.bin', at an offset or of a length that is no number."),
    ),
}
LINKS = {"a symbolic link", "a folder that is a link", "a hard link", "a pipe"}


@pytest.mark.parametrize("name", EXTERNAL)
def test_where_external_data_are(name: str, tmp_path: Path):
    if name in LINKS and sys.platform == "win32":
        pytest.skip("Windows makes such links for administrators only, and no pipes")
    prepare, change, (level, text) = EXTERNAL[name]
    folder = tmp_path / "model"
    folder.mkdir()
    prepare(folder)
    where = "external data" if level == "note" else "graph"
    assert findings(change, folder) == [(level, where, text)]


def test_data_beside_a_model_that_is_no_file(tmp_path: Path):
    model = plain_model()
    external(model, location="w.bin")
    (finding,) = rm.doctor(model, ask_cpu=False).findings
    assert (finding.level, finding.text) == (
        "problem",
        "the data of 'w' are in 'w.bin', but the model was given without a folder. Give its path.",
    )


def tensor(change: Callable[[TensorProto], object]) -> Break:
    return lambda model, folder: change(model.graph.initializer[0])


def value(size: int) -> Break:
    def change(model: onnx.ModelProto, folder: Path) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = size

    return change


def node(op_type: str, domain: str = "", **attributes: object) -> Break:
    def change(model: onnx.ModelProto, folder: Path) -> None:
        model.graph.node.append(helper.make_node(op_type, ["x"], ["z"], name="extra", domain=domain, **attributes))
        if domain:
            model.opset_import.append(helper.make_opsetid(domain, 1))

    return change


def inside_a_branch(model: onnx.ModelProto, folder: Path) -> None:
    hidden = numpy_helper.from_array(np.ones(2, np.float32), "hidden")
    hidden.ClearField("raw_data")
    hidden.data_location = TensorProto.EXTERNAL
    hidden.external_data.add(key="location", value="../secret")
    branch = helper.make_graph([], "b", [], [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [2])], [hidden])
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch, name="if"))
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))


def in_training_info(model: onnx.ModelProto, folder: Path) -> None:
    info = model.training_info.add()
    info.algorithm.name = "a"
    secret = info.algorithm.initializer.add(name="s", data_type=TensorProto.FLOAT, dims=[2])
    secret.data_location = TensorProto.EXTERNAL
    secret.external_data.add(key="location", value="/secret")


def in_a_constant(model: onnx.ModelProto, folder: Path) -> None:
    secret = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    secret.external_data.add(key="location", value="/secret")
    model.graph.node.append(helper.make_node("Constant", [], ["z"], value=secret))


ODD: dict[str, tuple[Break, list[tuple[str, str, str]]]] = {
    "nothing": (lambda model, folder: None, []),
    "a negative size": (
        tensor(lambda t: t.dims.__setitem__(0, -3)),
        [("danger", "graph", "the tensor 'w' has a negative size: [-3, 4].")],
    ),
    "a huge tensor": (
        tensor(lambda t: t.dims.__setitem__(0, 2**40)),
        [("danger", "graph", "the tensor 'w' says to hold 17.6 TB.")],
    ),
    "fewer bytes": (
        tensor(lambda t: t.dims.__setitem__(0, 30)),
        [("danger", "graph", "the tensor 'w' says to hold 480 bytes and holds 48.")],
    ),
    "no type": (
        tensor(lambda t: setattr(t, "data_type", 99)),
        [("problem", "graph", "the tensor 'w' has no element type that ONNX knows.")],
    ),
    "a negative value": (value(-3), [("danger", "graph", "the value 'x' has a negative size: [-3].")]),
    "a huge value": (value(2**50), [("danger", "graph", "the value 'x' has 1.13e+15 elements.")]),
    "a custom domain": (
        node("Swoosh", "my.own"),
        [("problem", "domain my.own", "operators that a library of its own must bring: Swoosh 1.")],
    ),
    "a domain of onnxruntime's": (
        node("Gelu", "com.microsoft"),
        [("problem", "domain com.microsoft", "operators that onnxruntime alone knows: Gelu 1.")],
    ),
    "a binary of a provider": (
        node("EPContext", "com.microsoft"),
        [
            ("problem", "domain com.microsoft", "operators that onnxruntime alone knows: EPContext 1."),
            (
                "danger",
                "domain com.microsoft",
                "node 'extra' (EPContext) makes a provider load a binary, from a file where it names one.",
            ),
        ],
    ),
    "options of a session": (
        lambda model, folder: model.metadata_props.add(key="ort_config", value="{}"),
        [
            (
                "danger",
                "metadata",
                "'ort_config' holds options of a session, which onnxruntime reads when told to.",
            )
        ],
    ),
    "data of a branch": (
        inside_a_branch,
        [
            (
                "danger",
                "a subgraph of node 'if'",
                "the data of 'hidden' are in '../secret', which leads out of the model's folder.",
            ),
            ("note", "control flow", "If 1: CUDA graphs refuse it, and how long a Loop runs is data."),
        ],
    ),
    "data of a training step": (
        in_training_info,
        [
            (
                "danger",
                "training_info[0].algorithm",
                "the data of 's' are in '/secret', an absolute path: a file may only read its own folder.",
            )
        ],
    ),
    "data of a constant": (
        in_a_constant,
        [
            (
                "danger",
                "graph",
                "the data of 'c' are in '/secret', an absolute path: a file may only read its own folder.",
            )
        ],
    ),
    "no opset": (
        lambda model, folder: model.ClearField("opset_import"),
        [
            ("problem", "opset", "the model imports no version of ONNX's own operators."),
        ],
    ),
    "an old IR version": (
        lambda model, folder: setattr(model, "ir_version", 2),
        [("problem", "IR version", "the IR version must be 3 or more, got 2.")],
    ),
    "too new": (
        lambda model, folder: (setattr(model, "ir_version", 14), setattr(model.opset_import[0], "version", 28)),
        [
            (
                "problem",
                "onnxruntime-gpu 1.31.1",
                "it opens models up to opset 26 and IR version 13, this has 28 and 14.",
            ),
            (
                "problem",
                "onnxruntime-web 1.30.0 (browsers)",
                "it opens models up to opset 26 and IR version 13, this has 28 and 14.",
            ),
        ],
    ),
    "too old": (
        lambda model, folder: setattr(model.opset_import[0], "version", 6),
        [("problem", "onnxruntime", "it runs opset 7 and newer, this has 6.")],
    ),
    "an unknown operator": (
        node("Swoosh"),
        [
            (
                "problem",
                "operators",
                "ONNX has no operator Swoosh at this opset, and the file does not define it (1 node).",
            )
        ],
    ),
    "an overload without its IR version": (
        lambda model, folder: (
            setattr(model, "ir_version", 8),
            model.functions.append(helper.make_function("f", "g", ["x"], ["x"], [], [helper.make_opsetid("", 18)])),
            setattr(model.functions[0], "overload", "two"),
        ),
        [("problem", "IR version", "overloads of functions need IR version 10, this has 8.")],
    ),
}


@pytest.mark.parametrize(("change", "expected"), ODD.values(), ids=ODD.keys())
def test_what_is_odd_in_a_file(change: Break, expected: list[tuple[str, str, str]], tmp_path: Path):
    found = findings(change, tmp_path)
    own = [f for f in found if not f[2].startswith("it cannot be read")]
    assert own == expected


def test_an_opset_from_the_future(tmp_path: Path):
    newest = onnx.defs.onnx_opset_version()
    found = findings(lambda model, folder: setattr(model.opset_import[0], "version", newest + 1), tmp_path)
    text = f"it knows opsets up to {newest}, this has {newest + 1}."
    assert ("problem", f"onnx {onnx.__version__}", text) in found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.graph.initializer[0].dims.__setitem__(0, -3),
            "doctor: every size must be 0 or more, got 'w' with sizes [-3, 4].",
        ),
        (
            lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", -1),
            "doctor: every size must be 0 or more, got 'x' with sizes [0, -1].",
        ),
    ],
    ids=["tensor", "value"],
)
def test_negative_sizes_never_reach_onnx(change: Callable[[onnx.ModelProto], object], message: str):
    from renom_onnx.converters.doctor.reading import structure

    model = plain_model()
    change(model)
    with pytest.raises(rm.ConversionError) as caught:
        structure(model, model.graph, {})
    assert str(caught.value) == message


def test_names_that_are_no_text_are_refused():
    data = plain_model().SerializeToString().replace(b"node", b"n\xffde")
    with pytest.raises(rm.ConversionError) as caught:
        rm.doctor(data)
    assert str(caught.value) == "doctor: every name must be UTF-8 text, got b'n\\xffde' in the bytes."


def test_only_the_named_file_is_opened(tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    model = plain_model()
    external(model, location="../secret")
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    opened: list[str] = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    rm.doctor(path, ask_cpu=False)
    assert not any("secret" in name for name in opened)
    assert any("m.onnx" in name for name in opened)
