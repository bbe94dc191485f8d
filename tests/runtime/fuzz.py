"""Open broken copies of a training file; run as a script by test_fuzz.py, because a native crash ends the process.

python -m tests.runtime.fuzz FIRST LAST

Prints a JSON object: how often each reader ended how. Errors other than ours and the system's have their traceback.
"""

import collections
import json
import random
import sys
import traceback
from collections.abc import Callable
from typing import Any

import onnx

import renom_onnx as rm
from renom_onnx.converters import (
    add_prefix,
    convert_opset,
    doctor,
    inline,
    lint,
    lower,
    merge,
    strip,
    summarize,
    vjp,
)
from renom_onnx.converters.show.page import page
from renom_onnx.runtime import InferenceSession, TrainingSession
from tests.converters.programs import Program, feeds

PROGRAMS = [Program("mlp", "Adam", 18), Program("windows_apart", "momentum", 18)]
HEAD = onnx.parser.parse_model(
    '<ir_version: 10, opset_import: ["": 18]> f (float[N, 3] s) => (float[N, 3] t) { t = Neg (s) }'
)


def broken(data: bytes, rng: random.Random) -> bytes:
    """Cut the file, or turn a few of its bits."""
    if rng.random() < 0.2:
        return data[: rng.randrange(len(data))]
    copy = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        copy[rng.randrange(len(copy))] ^= 1 << rng.randrange(8)
    return bytes(copy)


Batch = dict[str, Any]
READERS: dict[str, Callable[[bytes, Batch], object]] = {
    "lint": lambda data, batch: lint(data),
    "vjp": lambda data, batch: vjp(data),
    "inline": lambda data, batch: inline(data),
    "convert_opset": lambda data, batch: convert_opset(data, 21),
    "add_prefix": lambda data, batch: strip(add_prefix(data, "net/")),
    "merge": lambda data, batch: merge(data, HEAD, {"output": "s"}),
    "lower": lambda data, batch: lower(data),
    "doctor": lambda data, batch: str(doctor(data)),
    "show": lambda data, batch: (str(summarize(data, training=True)), page(data)),
    "infer": lambda data, batch: InferenceSession(data, "cpu", threads=1).run({"x": batch["x"]}),
    "train": lambda data, batch: float(TrainingSession(data, "cpu", threads=1).step(batch)),
}


def main(first: int, last: int) -> None:
    models = [*(program.model() for program in PROGRAMS), PROGRAMS[0].model(form="spec")]
    files = [(model.SerializeToString(), feeds(model, 3)) for model in models]
    ends: collections.Counter[str] = collections.Counter()
    for seed in range(first, last):
        whole, batch = files[seed % len(files)]
        data = broken(whole, random.Random(seed))
        for name, read in READERS.items():
            print(seed, name, file=sys.stderr, flush=True)  # the last line tells where a crash was
            try:
                read(data, batch)
                ends[f"{name} works"] += 1
            except (rm.RenomError, OSError):
                ends[f"{name} raises"] += 1
            except Exception:
                ends[f"{name} of seed {seed}: {traceback.format_exc()}"] += 1
    print(json.dumps(ends))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
