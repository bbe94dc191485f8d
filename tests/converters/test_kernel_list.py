"""The list of kernels says what the registry said, in fewer lines."""

from __future__ import annotations

import itertools
from typing import Any

from docs import kernels as script
from renom_onnx.converters.doctor.kernels import CPU, CUDA, kernels

LAST = 2**31 - 1
CUDA_PROVIDER, CPU_PROVIDER = "CUDAExecutionProvider", "CPUExecutionProvider"


def tensors(*names: str) -> list[str]:
    return [f"tensor({name})" for name in names]


ROWS: list[Any] = [
    [CUDA_PROVIDER, "", "Conv", (11, 21), {"T": tensors("float")}],
    [CUDA_PROVIDER, "", "Conv", (11, 21), {"T": tensors("float16")}],
    [CUDA_PROVIDER, "", "Cast", (13, LAST), {"T1": tensors("float"), "T2": tensors("bool", "float")}],
    [CUDA_PROVIDER, "", "Cast", (13, LAST), {"T1": tensors("int32"), "T2": tensors("bool", "float")}],
    [CUDA_PROVIDER, "", "Norm", (1, LAST), {"T": tensors("float"), "U": tensors("float")}],
    [CUDA_PROVIDER, "", "Norm", (1, LAST), {"T": tensors("double"), "U": tensors("double")}],
    [CPU_PROVIDER, "", "SequenceAt", (11, LAST), {"S": ["seq(tensor(float))"], "I": tensors("int64")}],
    [CPU_PROVIDER, "ai.onnx.ml", "Scaler", (1, LAST), {}],
    ["TensorrtExecutionProvider", "", "Conv", (1, LAST), {}],
    [CUDA_PROVIDER, "com.ms.internal.nhwc", "Conv", (1, LAST), {}],
]


def test_kernels_that_differ_in_one_type_become_one():
    lines = script.text("9.9", ROWS).splitlines()
    assert lines[0] == "# Kernels that onnxruntime-gpu 9.9 registers; written by `python -m docs.kernels`."
    assert lines[3:] == [
        "cpu - SequenceAt 11 + I=int64",
        "cpu ai.onnx.ml Scaler 1 +",
        "cuda - Cast 13 + T1=float,int32 T2=bool,float",
        "cuda - Conv 11 21 T=float,float16",
        "cuda - Norm 1 + T=double U=double",
        "cuda - Norm 1 + T=float U=float",
    ]


def test_merging_allows_what_was_there_and_nothing_else():
    """The combinations of types before and after are the same."""
    rows = [
        [CUDA_PROVIDER, "", "Op", (1, 1), {"A": tensors(a), "B": tensors(b)}]
        for a, b in [("float", "int32"), ("float", "int64"), ("double", "int32"), ("double", "int64"), ("bool", "int8")]
    ]
    (entries,) = script.merged(rows).values()
    after = {pair for entry in entries for pair in itertools.product(entry["A"], entry["B"])}
    assert after == {(a, b) for row in rows for a in row[4]["A"] for b in row[4]["B"]}
    assert len(entries) == 2


def test_the_list_in_the_package_was_written_by_the_script():
    lines = script.TARGET.read_text("utf-8").splitlines()
    assert lines[0].endswith("registers; written by `python -m docs.kernels`.")
    assert lines[3:] == sorted(lines[3:], key=lambda line: line.split(" ")[0]), "providers apart"
    n_listed = sum(len(entries) for provider in (CPU, CUDA) for entries in kernels(provider).values())
    assert n_listed == len(lines) - 3
