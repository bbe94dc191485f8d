"""Load broken models; run as a script by test_hostile_models.py, because a native crash ends the process.

python -m tests.converters.fuzz_load FIRST LAST

Prints a JSON object: how often loading ended how, the longest time in s and the memory in MB. Errors other than ours
and the system's have their traceback.
"""

import collections
import json
import random
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

import renom_onnx as rm
from benchmarks.memory import peak_mb
from renom_onnx.converters import to_onnx
from tests.converters.programs import Program
from tests.converters.test_load_training import network
from tests.converters.test_round_trip import cases

NUMBERS = (0, 1, -1, 2, 3, 7, 255, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63), 99)
FLOATS = (0.0, float("nan"), float("inf"), -1e38)
LARGEST_BYTES = 300_000


def models() -> list[onnx.ModelProto]:
    """Return training files, models of old opsets, and some of the standard's own, control flow among them."""
    own = [Program(*p, 18).model() for p in (("mlp", "Adam"), ("cnn", "Sgd"), ("dropout", "Adam"))]
    own += [network(17, 0.5), network(9, 0.5)]
    nodes = [model for _, model, _ in cases("node")]
    graphs = [m for m in nodes if any(a.HasField("g") for n in m.graph.node for a in n.attribute)]
    standard = [*graphs[:40], *[m for m in nodes if len(m.graph.node) > 3][::20], *nodes[::60]]
    for kind, step in (("simple", 1), ("pytorch-operator", 3), ("pytorch-converted", 8)):
        standard += [model for _, model, _ in cases(kind)[::step]]
    return [model for model in [*own, *standard] if model.ByteSize() < LARGEST_BYTES]


def fields(message: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every field of a message that is no message itself."""
    for field, value in message.ListFields():
        if field.message_type is None:
            yield message, field
        else:
            for inner in [value] if hasattr(value, "ListFields") else value:
                yield from fields(inner)


def change(message: Any, name: str, names: list[str], rng: random.Random) -> None:
    """Give a field another value: a number that is too large, a name of something else, fewer bytes."""

    def other(value: Any) -> Any:
        if isinstance(value, int):
            return rng.choice(NUMBERS)
        if isinstance(value, float):
            return rng.choice(FLOATS)
        if isinstance(value, str):
            return rng.choice(["", "x", "output", value + "_", *rng.sample(names, min(3, len(names)))])
        return rng.choice([b"", value[:-1], value + b"\0" * 4, b"\xff" * 8])

    value = getattr(message, name)
    try:
        if isinstance(value, int | float | str | bytes):
            setattr(message, name, other(value))
        else:
            position = rng.randrange(len(value))
            value[position] = other(value[position])
            if rng.random() < 0.2:
                del value[position]
    except (ValueError, TypeError):  # a number that the field cannot hold
        pass


def broken(model: onnx.ModelProto, rng: random.Random) -> bytes:
    """Cut the file, turn a few of its bits, or change some of its fields."""
    data, way = bytes(model.SerializeToString()), rng.random()
    if way < 0.1:
        return data[: rng.randrange(len(data))]
    if way < 0.4:
        turned = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 4, 16])):
            turned[rng.randrange(len(turned))] ^= 1 << rng.randrange(8)
        return bytes(turned)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for _ in range(rng.choice([1, 1, 2, 3])):
        found = list(fields(copy))
        names = [text for m, f in found if isinstance(text := getattr(m, f.name), str) and f.name != "doc_string"]
        message, field = rng.choice(found)
        change(message, field.name, names, rng)
    return bytes(copy.SerializeToString())


def use(data: bytes) -> None:
    """Load a model, look at it, export it, build its training step and call it."""
    model = rm.load(data)
    repr(model)
    to_onnx(model)
    assert model.optimizer is None or model.loss is not None
    operands = {}
    for name, element in model.inputs.items():
        shape = [d if isinstance(d, int) else 3 for d in element.shape or ()]
        if element.dtype == object or np.prod(np.array(shape, float)) > 1e6:
            return
        operands[name] = np.ones(shape, element.dtype)
    model(**operands)


def main(first: int, last: int) -> None:
    warnings.simplefilter("ignore", RuntimeWarning)  # numbers out of range, of broken constants
    whole = models()
    ends: collections.Counter[str] = collections.Counter()
    longest = 0.0
    for seed in range(first, last):
        data = broken(whole[seed % len(whole)], random.Random(seed))
        print(seed, file=sys.stderr, flush=True)  # the last line tells where a crash was
        start = time.process_time()
        try:
            use(data)
            ends["works"] += 1
        except (rm.RenomError, OSError):
            ends["raises"] += 1
        except Exception:
            ends[f"seed {seed}: {traceback.format_exc()}"] += 1
        longest = max(longest, time.process_time() - start)
    print(json.dumps({"ends": ends, "longest_s": longest, "memory_mb": peak_mb()}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
