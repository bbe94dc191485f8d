"""Jobs in which something goes wrong on one rank, or on all."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import renom_onnx as rm
from tests.runtime.several import BATCH, g, images, labels

VICTIM = 1


def in_a_file(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return an array that no rank looks at but when it reads its rows of a batch."""
    mapped = np.memmap(tempfile.TemporaryFile(), array.dtype, shape=array.shape)  # noqa: SIM115  (it stays open)
    mapped[:] = array
    return mapped


def executor(*, bad_row: int | None = None, **placement: Any) -> Any:
    rm.set_seed(0)
    y = labels()
    if bad_row is not None:
        y[bad_row] = 99
        y = in_a_file(y)
    data = g.DistributorElement(images(), y, batch_size=BATCH, shuffle=False)
    x, label = data.get_output_graphs()
    loss = g.SoftmaxCrossEntropy()(g.Dense(3)(g.Flatten()(x)), label)
    return loss.get_training_executor(g.Adam(0.01), ["cpu"], threads=1, **placement)


def fail_on(rank: int, victim: int | None) -> Callable[[Any], None]:
    def listener(event: Any) -> None:
        if event.n_steps == 6 and victim in (None, rank):
            raise ValueError("broken on purpose")

    return listener


def step(rank: int) -> None:
    training = executor()
    training.register_event("Step-Finish", fail_on(rank, VICTIM))
    training.execute(5, progress=False)


def elastic_step(rank: int) -> None:
    """An error is no loss: the others could not do better."""
    training = executor(elastic=True)
    training.register_event("Step-Finish", fail_on(rank, VICTIM))
    training.execute(5, progress=False)


def data(rank: int) -> None:
    """A row that only one rank reads has a label that is none."""
    executor(bad_row=6).execute(5, progress=False)


def caught(rank: int) -> None:
    """Catching it does not help the others, who wait."""
    try:
        executor(bad_row=6).execute(5, progress=False)
    except rm.RenomError:
        print("this is never printed")


def before(rank: int) -> None:
    if rank == VICTIM:
        raise ValueError("broken on purpose")
    executor().execute(5, progress=False)


def leave(rank: int) -> None:
    training = executor()
    training.execute(1, progress=False)
    if rank == VICTIM:
        sys.exit(0)
    training.execute(1, progress=False)


def save_alone(rank: int) -> None:
    training = executor()
    training.execute(1, progress=False)
    if rank == 0:
        training.save(Path(tempfile.mkdtemp(), "model.onnx"))


def everywhere(rank: int) -> None:
    """An error that all ranks have is theirs to catch; they train on together."""
    for _ in range(2):
        training = executor()
        training.register_event("Step-Finish", fail_on(rank, None))
        try:
            training.execute(5, progress=False)
        except ValueError:
            training.unregister_events("Step-Finish")
            history = training.execute(2, progress=False)
    print(f"rank {rank} has {len(history.losses)} epochs")


def not_elastic(rank: int) -> None:
    executor(elastic=True)


def own_rank() -> int:
    """Know it without joining the job."""
    return int(os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["PMI_RANK"])


if __name__ == "__main__":
    globals()[sys.argv[1]](own_rank())
