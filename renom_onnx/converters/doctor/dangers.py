"""Dangers in a file: data outside of its folder, sizes that are not what they say, operators of vendors."""

from __future__ import annotations

import math
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from renom_onnx.converters.doctor.finding import DANGER, NOTE, PROBLEM, Finding
from renom_onnx.converters.doctor.reading import Opened, all_graphs, all_tensors, n_elements
from renom_onnx.converters.doctor.wording import counted, size_text
from renom_onnx.converters.structure import all_nodes

LARGEST_VALUE = 64 * 10**9
"""Bytes of one tensor above which a model is not taken seriously."""
OWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "ai.onnx.training", "renom_onnx")
CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")
ORT_KEYS = ("ort_config",)
"""Metadata that onnxruntime can be told to read its session's options from."""


def find_dangers(opened: Opened) -> list[Finding]:
    """Return what is dangerous or odd in a file; nothing of it is run, and no file outside of its folder is opened."""
    proto = opened.proto
    found = [*_tensors(opened), *_sizes(proto), *_domains(proto), *_control_flow(proto), *_metadata(proto)]
    return list(dict.fromkeys(found))


def _tensors(opened: Opened) -> Iterator[Finding]:
    files: dict[str, list[str]] = {}
    for where, tensor in all_tensors(opened.proto):
        count = n_elements(tensor)
        size = _itemsize(tensor)
        if count < 0:
            yield Finding(DANGER, where, f"the tensor {tensor.name!r} has a negative size: {list(tensor.dims)}.")
        elif size is None:
            yield Finding(PROBLEM, where, f"the tensor {tensor.name!r} has no element type that ONNX knows.")
        elif count * size > LARGEST_VALUE:
            yield Finding(
                DANGER, where, f"the tensor {tensor.name!r} says to hold {size_text(math.ceil(count * size))}."
            )
        elif tensor.data_location == onnx.TensorProto.EXTERNAL:
            finding = _external(opened.folder, tensor, math.ceil(count * size))
            if finding is None:
                entries = {entry.key: entry.value for entry in tensor.external_data}
                files.setdefault(entries["location"], []).append(tensor.name)
            else:
                yield Finding(finding.level, where, finding.text)
        elif tensor.HasField("raw_data") and len(tensor.raw_data) != math.ceil(count * size):
            says = f"says to hold {math.ceil(count * size)} bytes and holds {len(tensor.raw_data)}"
            yield Finding(DANGER, where, f"the tensor {tensor.name!r} {says}.")
    for location, names in files.items():
        yield Finding(NOTE, "external data", f"{counted(len(names), 'tensor')} in {location!r}, beside the model.")


_PACKED = {"INT4": 2, "UINT4": 2, "FLOAT4E2M1": 2, "INT2": 4, "UINT2": 4, "FLOAT6E2M3": 4 / 3, "FLOAT6E3M2": 4 / 3}
"""Elements in a byte, of types smaller than one."""


def _itemsize(tensor: onnx.TensorProto) -> float | None:
    if tensor.data_type == onnx.TensorProto.STRING:
        return 0
    try:
        name = onnx.TensorProto.DataType.Name(tensor.data_type)
        return float(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize / _PACKED.get(name, 1))
    except (KeyError, ValueError):
        return None


def _external(folder: Path | None, tensor: onnx.TensorProto, n_bytes: int) -> Finding | None:
    """Return what is wrong with the place that a tensor's data are said to be in; only its directory entry is read."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    name = f"the data of {tensor.name!r} are in {location!r}"
    if not location or "\0" in location:
        return Finding(DANGER, "", f"the data of {tensor.name!r} are elsewhere, and it is not said where.")
    windows = PureWindowsPath(location)
    if PurePosixPath(location).is_absolute() or windows.drive or windows.root:
        return Finding(DANGER, "", f"{name}, an absolute path: a file may only read its own folder.")
    if ".." in PurePosixPath(location).parts or ".." in windows.parts:
        return Finding(DANGER, "", f"{name}, which leads out of the model's folder.")
    if folder is None:
        return Finding(PROBLEM, "", f"{name}, but the model was given without a folder. Give its path.")
    path = folder
    for part in PurePosixPath(location).parts:
        path /= part
        if path.is_symlink():
            return Finding(DANGER, "", f"{name}, behind the symbolic link {part!r}, which may lead anywhere.")
    try:
        status = path.lstat()
    except (OSError, ValueError):
        return Finding(PROBLEM, "", f"{name}, and there is no such file.")
    if not stat.S_ISREG(status.st_mode):
        return Finding(DANGER, "", f"{name}, which is no regular file.")
    if status.st_nlink > 1:
        return Finding(DANGER, "", f"{name}, a file with {status.st_nlink} names (hard links): it may be anybody's.")
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or n_bytes)
    except ValueError:
        return Finding(DANGER, "", f"{name}, at an offset or of a length that is no number.")
    if offset < 0 or length < 0 or offset + length > status.st_size:
        return Finding(DANGER, "", f"{name}, from byte {offset} on {length} bytes, of a file with {status.st_size}.")
    if length != n_bytes:
        return Finding(DANGER, "", f"{name} with {length} bytes, and its sizes ask for {n_bytes}.")
    return None


def _sizes(proto: onnx.ModelProto) -> Iterator[Finding]:
    for where, graph in all_graphs(proto):
        for value in [*graph.input, *graph.output, *graph.value_info]:
            if value.type.HasField("tensor_type"):
                dims = [d.dim_value for d in value.type.tensor_type.shape.dim if d.HasField("dim_value")]
                if any(d < 0 for d in dims):
                    yield Finding(DANGER, where, f"the value {value.name!r} has a negative size: {dims}.")
                elif math.prod(dims) > LARGEST_VALUE:
                    yield Finding(DANGER, where, f"the value {value.name!r} has {math.prod(dims):.3g} elements.")


def _domains(proto: onnx.ModelProto) -> Iterator[Finding]:
    functions = {(f.domain, f.name) for f in proto.functions}
    used = Counter(
        (node.domain, node.op_type)
        for node in all_nodes(proto)
        if node.domain not in OWN_DOMAINS and (node.domain, node.op_type) not in functions
    )
    by_domain: dict[str, list[str]] = {}
    for (domain, op_type), count in sorted(used.items()):
        by_domain.setdefault(domain, []).append(f"{op_type} {count}")
    for domain, operators in by_domain.items():
        known = "onnxruntime alone knows" if domain.startswith("com.microsoft") else "a library of its own must bring"
        yield Finding(PROBLEM, f"domain {domain}", f"operators that {known}: {', '.join(operators)}.")
    for node in all_nodes(proto):
        if node.op_type == "EPContext":
            sentence = f"node {node.name!r} (EPContext) makes a provider load a binary, from a file where it names one."
            yield Finding(DANGER, f"domain {node.domain}", sentence)


def _control_flow(proto: onnx.ModelProto) -> Iterator[Finding]:
    found = Counter(node.op_type for node in all_nodes(proto) if node.op_type in CONTROL_FLOW and node.domain == "")
    if found:
        names = ", ".join(f"{op} {count}" for op, count in sorted(found.items()))
        yield Finding(NOTE, "control flow", f"{names}: CUDA graphs refuse it, and how long a Loop runs is data.")


def _metadata(proto: onnx.ModelProto) -> Iterator[Finding]:
    for entry in proto.metadata_props:
        if entry.key in ORT_KEYS:
            yield Finding(
                DANGER,
                "metadata",
                f"{entry.key!r} holds options of a session, which onnxruntime reads when told to.",
            )
