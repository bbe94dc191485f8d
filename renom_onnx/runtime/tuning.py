"""Tuning: which forms of a step are fastest on this machine, found by measuring and kept for the next time."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from renom_onnx.graph.whole_file import write_whole
from renom_onnx.runtime.ort import onnxruntime
from renom_onnx.runtime.specialization import FORMS

Array = np.ndarray[Any, Any]
Build = Callable[[frozenset[str]], bytes]
Open = Callable[[bytes], Any]

GAIN = 0.03
"""Share of the time that leaving a form out must save; less is noise."""
ROUNDS = 5
BLOCK_S = 0.05
"""How long one block of steps takes about; blocks of two candidates are run in turn."""


def tuned(build: Build, open_session: Open, values: Mapping[str, Array], key: bytes) -> frozenset[str]:
    """Return the forms that make a step fastest.

    Beginning with all, each form is left out once, and stays out if the step is faster without it. What was found is
    kept in a file for each step, its sizes, and the machine; where none can be written, it is measured every time. A
    step that reads values of unknown sizes is not measured, and keeps all.

    Args:
        build: returns the step with some forms.
        open_session: opens a session of onnxruntime.
        values: of inputs by name; others are drawn.
        key: tells steps and sizes apart.
    """
    path = cache_folder() / f"{hashlib.sha256(key + _machine().encode()).hexdigest()}.json"
    known = _read(path)
    if known is not None:
        return known
    chosen = frozenset(FORMS)
    model = build(chosen)
    session = open_session(model)
    if not all(isinstance(d, int) for value in session.get_inputs() if value.name not in values for d in value.shape):
        return chosen
    run = _runner(session, values)
    for form in FORMS:
        fewer = chosen - {form}
        other = build(fewer)
        if other == model:
            continue
        candidate = _runner(open_session(other), values)
        if _is_faster(candidate, run):
            chosen, model, run = fewer, other, candidate
    _write(path, chosen)
    return chosen


def cache_folder() -> Path:
    """Return where the choices lie: the folder for caches of this user, or what RENOM_ONNX_CACHE says.

    Example:
        >>> with __import__("unittest.mock").mock.patch.dict(os.environ, RENOM_ONNX_CACHE="there"):
        ...     print(cache_folder().as_posix())
        there/tuning
    """
    given = os.environ.get("RENOM_ONNX_CACHE")
    if given:
        return Path(given) / "tuning"
    if sys.platform == "win32":
        parent = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        parent = Path.home() / "Library" / "Caches"
    else:
        parent = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return parent / "renom_onnx" / "tuning"


def _machine() -> str:
    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [line for line in information.read_text().splitlines() if line.startswith(("model name", "flags"))]
        processor = f"{len(names)} {names[:2]}"
    return f"{onnxruntime().__version__} {processor} {os.cpu_count()} {list(FORMS)}"


def _runner(session: Any, values: Mapping[str, Array]) -> Callable[[], None]:
    """Return what takes a step on values of no meaning, and changes nothing but its own outputs."""
    binding = session.io_binding()
    random = np.random.default_rng(0)
    for value in session.get_inputs():
        array = values.get(value.name)
        binding.bind_cpu_input(value.name, _drawn(value, random) if array is None else array)
    for value in session.get_outputs():
        binding.bind_output(value.name, "cpu")
    return partial(session.run_with_iobinding, binding)


def _drawn(value: Any, random: np.random.Generator) -> Array:
    """Return an array for an input: numbers for floats, and zeros, which are indices of something, for the rest."""
    dtype = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}.get(value.type)
    if dtype is not None:
        numbers: Array = random.random(value.shape).astype(dtype)
        return numbers
    integers = {"tensor(bool)": np.bool_, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8}
    return np.zeros(value.shape, integers.get(value.type, np.int64))


def _is_faster(candidate: Callable[[], None], than: Callable[[], None]) -> bool:
    runs = (candidate, than)
    n_steps = max(1, round(BLOCK_S / max(min(_seconds(run, 2) for run in runs), 1e-6)))
    rounds = [[_seconds(run, n_steps) for run in runs] for _ in range(ROUNDS)]
    own, other = (min(times) for times in zip(*rounds, strict=True))
    return bool(own < (1 - GAIN) * other)


def _seconds(run: Callable[[], None], n_steps: int) -> float:
    start = time.perf_counter()
    for _ in range(n_steps):
        run()
    return (time.perf_counter() - start) / n_steps


def _read(path: Path) -> frozenset[str] | None:
    """Return what a file says; None where there is none, or one that says nothing that is known here."""
    try:
        found = json.loads(path.read_text("utf-8"))["forms"]
        return frozenset(found) if set(found) <= set(FORMS) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, forms: frozenset[str]) -> None:
    text = json.dumps({"forms": sorted(forms)}).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: file.write(text))
    except OSError:
        return  # it is measured again the next time
