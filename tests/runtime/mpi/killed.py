"""A training of which ranks are killed by SIGKILL, which nothing can catch, some time after one of their steps."""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import renom_onnx as rm
from tests.runtime.several import g

ROWS, BATCH, EPOCHS = 250, 16, 16
STEPS = EPOCHS * -(-ROWS // BATCH)


def data() -> g.DistributorElement:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, 1, 12, 12)).astype(np.float32)
    y = (np.arange(ROWS) * 7 % 5).astype(np.int64)
    return g.DistributorElement(x, y, batch_size=BATCH, shuffle=True)


def kill(seconds: float) -> None:
    """Let another program end this process, whatever it does then."""
    subprocess.Popen(["sh", "-c", f"sleep {seconds:.3f}; kill -9 {os.getpid()} 2>/dev/null"])


def train(
    folder: Path, engine: Any, victims: dict[int, tuple[int, float]], checkpoint_every: int | None, **placement: Any
) -> Any:
    """Return the executor; a victim is killed some seconds after it began its n-th step."""
    rm.set_seed(0)
    x, y = data().get_output_graphs()
    layers = [g.Conv(6, kernel=3), g.Relu(), g.Flatten(), g.Dropout(0.3), g.Dense(64), g.Tanh(), g.Dense(5)]
    loss = g.SoftmaxCrossEntropy()(g.Sequential(layers)(x), y)
    executor = loss.get_training_executor(g.Adam(0.003), ["cpu"], threads=1, engine=engine, **placement)
    n, seconds = victims.get(engine.rank, (0, 0.0))
    steps = itertools.count(1)

    def begin(event: Any) -> None:
        if next(steps) == n:
            kill(seconds)

    executor.register_event("Step-Start", begin)
    validation = (data().arrays[0][:50], data().arrays[1][:50])
    checkpoint = None if checkpoint_every is None else folder / "checkpoint.onnx"
    executor.execute(
        EPOCHS, progress=False, validation=validation, checkpoint=checkpoint, checkpoint_every=checkpoint_every
    )
    return executor


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--victims", default="", help="rank:step:seconds,rank:step:seconds")
    parser.add_argument("--elastic", action="store_true")
    parser.add_argument("--checkpoint-every", type=int)
    parser.add_argument("--average-every", type=int, default=1)
    options = parser.parse_args()
    pairs = [pair.split(":") for pair in options.victims.split(",") if pair]
    victims = {int(rank): (int(step), float(seconds)) for rank, step, seconds in pairs}
    engine = rm.runtime.default_engine(elastic=options.elastic)
    executor = train(options.folder, engine, victims, options.checkpoint_every, average_every=options.average_every)
    found = {
        **executor.session.parameters,
        "losses": np.array(executor.history.losses),
        "validation": np.array(executor.history.validation_losses),
    }
    everywhere = engine.gather({name: array.tobytes() for name, array in found.items()})
    if any(other != everywhere[0] for other in everywhere):
        raise AssertionError("the ranks that are left must have the same bits")
    if engine.rank == 0:
        np.savez(options.folder / "found.npz", size=engine.size, **found)


if __name__ == "__main__":
    sys.exit(main())
