"""ONNX's conformance suite, run on us: what onnxruntime passes must pass after the way through elements and back.

The operators of training, which onnxruntime lacks, must pass too.
"""

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner, _normalize_tensor

from renom_onnx.backend import Backend

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
TRAINING = "ai.onnx.preview.training"
RUNNER = Runner.__new__(Runner)  # for its reading of files; making one would load every case
NOT_OURS = "onnxruntime itself does not pass it"

EXCEPTIONS: dict[str, str] = {}
"""Cases that onnxruntime passes and we do not, with the reason."""


def cases() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, about values that the cases overflow on purpose
        found = [(kind, case) for kind in KINDS for case in load_model_tests(kind=kind)]
    return [pytest.param(case, id=f"{kind}-{case.name.removeprefix('test_')}") for kind, case in found]


def model_of(case: Any) -> onnx.ModelProto:
    return case.model if case.model is not None else onnx.load(Path(case.model_dir) / "model.onnx")


def data_sets(case: Any, model: onnx.ModelProto) -> list[tuple[list[Any], list[Any]]]:
    if case.data_sets is not None:
        return [([_normalize_tensor(x) for x in a], [_normalize_tensor(y) for y in b]) for a, b in case.data_sets]
    folders = sorted(Path(case.model_dir).glob("test_data_set*"))
    return [(read(f, "input", model.graph.input), read(f, "output", model.graph.output)) for f in folders]


def read(folder: Path, kind: str, infos: Sequence[onnx.ValueInfoProto]) -> list[Any]:
    values: list[Any] = []
    for i in range(len(list(folder.glob(f"{kind}_*.pb")))):
        RUNNER._load_proto(str(folder / f"{kind}_{i}.pb"), values, infos[i].type)
    return values


def outputs_of_onnxruntime(model: onnx.ModelProto, inputs: Sequence[Any]) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip((i.name for i in session.get_inputs()), inputs, strict=False)))


def check(case: Any, expected: Sequence[Any], got: Sequence[Any]) -> None:
    Runner.assert_similar_outputs(list(expected), list(got), rtol=case.rtol, atol=case.atol)


def onnxruntime_passes(case: Any, model: onnx.ModelProto, data: Sequence[tuple[list[Any], list[Any]]]) -> bool:
    try:
        for inputs, expected in data:
            check(case, expected, outputs_of_onnxruntime(model, inputs))
    except Exception:  # whatever stops it, the case is not one that it passes
        return False
    return True


@pytest.mark.filterwarnings("ignore")  # NumPy's, about the odd values of some cases
@pytest.mark.parametrize("case", cases())
def test_a_case_of_onnx_passes_that_onnxruntime_passes(case: Any):
    model = model_of(case)
    data = data_sets(case, model)
    is_training = any(node.domain == TRAINING for node in model.graph.node)
    if not is_training and not onnxruntime_passes(case, model, data):
        pytest.skip(NOT_OURS)
    if case.name in EXCEPTIONS:
        pytest.xfail(EXCEPTIONS[case.name])
    prepared = Backend.prepare(model)
    for inputs, expected in data:
        check(case, expected, prepared.run(inputs))


@functools.cache
def light_models() -> list[Path]:
    return sorted((Path(onnx.__file__).parent / "backend" / "test" / "data" / "light").glob("*.onnx"))


@pytest.mark.slow  # networks of their full size
@pytest.mark.parametrize("path", light_models(), ids=lambda path: path.stem.removeprefix("light_"))
def test_a_whole_network_gives_the_outputs_that_onnx_ships(path: Path):
    model = onnx.load(path)
    defaults = {t.name for t in model.graph.initializer}
    (info,) = (i for i in model.graph.input if i.name not in defaults)
    expected = numpy_helper.to_array(onnx.load_tensor(path.with_name(f"{path.stem}_output_0.pb")))
    x = Runner.generate_dummy_data(info, seed=0, name=path.stem.removeprefix("light_"), random=False)
    (got,) = Backend.run_model(model, [x])
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)


def test_the_light_set_has_nine_networks():
    assert len(light_models()) == 9
