"""What several processes compute, as one program for any number of them: run by mpiexec, and by a test alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import renom_onnx as rm
from tests.runtime.several import BATCH, Array, Build, g, images, labels, train

Found = dict[str, Array]


def perceptron(*more: Callable[[], g.Layer]) -> Build:
    """Layers are made by the training, after its seed: dropout draws its key when it is made."""
    return lambda x, y: g.SoftmaxCrossEntropy()(
        g.Sequential([g.Flatten(), g.Dense(8), *(make() for make in more), g.Tanh(), g.Dense(3)])(x), y
    )


def weighted(x: g.GraphElement, y: g.GraphElement) -> g.GraphElement:
    model = g.Sequential([g.Flatten(), g.Dense(8), g.Tanh(), g.Dense(3)])
    return g.SoftmaxCrossEntropy(weight=np.array([0.2, 1, 3], np.float32))(model(x), y)


def summed(x: g.GraphElement, y: g.GraphElement) -> g.GraphElement:
    return g.SoftmaxCrossEntropy(reduction="sum")(g.Dense(3)(g.Flatten()(x)), y)


def normalized(x: g.GraphElement, y: g.GraphElement) -> g.GraphElement:
    layers = [g.Conv(4, kernel=3, bias=False), g.BatchNormalize(unbiased=True), g.Relu(), g.Flatten(), g.Dense(3)]
    return g.SoftmaxCrossEntropy()(g.Sequential(layers)(x), y)


def adam() -> g.Optimizer:
    return g.Adam(0.01)


def trained(
    build: Build, engine: Any, n_devices: int = 1, optimizer: Callable[[], g.Optimizer] = adam, **placement: Any
) -> Found:
    """Losses and weights of 50 steps, with shuffling and a last batch of two rows."""
    run = train(build, optimizer, n_devices, engine=engine, threads=1, **placement)
    return {"losses": np.array(run.losses), "history": np.array(run.executor.history.losses), **run.values}


def validated(engine: Any) -> Found:
    """Validation, its metrics, and inference over all data."""
    rm.set_seed(0)
    data = g.DistributorElement(images(), labels(), batch_size=BATCH, shuffle=False)
    x, y = data.get_output_graphs()
    model = g.Sequential([g.Flatten(), g.Dense(8), g.Tanh(), g.Dense(3)])
    loss = g.SoftmaxCrossEntropy()(model(x), y)
    executor = loss.get_training_executor(adam(), ["cpu"], engine=engine, threads=1)
    metrics = {
        "accuracy": rm.runtime.metric.Accuracy(),
        "rows": lambda p, t: len(p),  # of a whole batch
        "distance": lambda p, t: np.abs(p).max(1) - t.reshape(-1),
    }
    history = executor.execute(3, validation=(images(17), labels(17)), metrics=metrics, progress=False)
    losses = rm.runtime.InferenceExecutor(loss, device="cpu", engine=engine)
    predictor = rm.runtime.InferenceExecutor(model(x), device="cpu", engine=engine)
    return {
        "validation": np.array(history.validation_losses),
        **{name: np.array(values) for name, values in history.metrics.items()},
        "inference": np.array(losses.execute(2, progress=False).losses),
        "predicted": predictor.predict(),
    }


def iterated(engine: Any) -> Found:
    """Rows of an iterable, which every process reads, and of which each steps on its part."""
    rm.set_seed(0)
    rows = list(zip(images(), labels(), strict=True))
    x, y = g.DataInput(_Again(rows)).batch(BATCH).get_output_graphs()
    executor = perceptron()(x, y).get_training_executor(adam(), ["cpu"], engine=engine, threads=1)
    executor.execute(13, progress=False)
    return {"history": np.array(executor.history.losses), **executor.session.parameters}


class _Again:
    """An iterable that begins anew, and has no length."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __iter__(self) -> Any:
        return iter(self.rows)


CASES: dict[str, Callable[[Any], Found]] = {
    "dropout": lambda engine: trained(perceptron(lambda: g.Dropout(0.4)), engine),
    "two devices each": lambda engine: trained(perceptron(lambda: g.Dropout(0.4)), engine, 2),
    "label weights": lambda engine: trained(weighted, engine),
    "sum": lambda engine: trained(summed, engine),
    "synchronized": lambda engine: trained(normalized, engine, synchronize_batch_norm=True),
    "resident": lambda engine: trained(perceptron(), engine, resident=True),
    "ahead": lambda engine: trained(perceptron(), engine, feed_ahead=True),
    "iterated": iterated,
    "validated": validated,
}


class Recorded:
    """Rows that remember which of them were read."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, i: int) -> Array:
        self.read.append(i)
        return self.array[i]


def rows_read(engine: Any, comm: Any) -> Found:
    """The numbers of the rows that each process reads in an epoch, by rank."""
    rm.set_seed(0)
    x = Recorded(images().reshape(-1, 72))
    data = g.DistributorElement(x, labels(), batch_size=BATCH, shuffle=True)
    rows, label = data.get_output_graphs()
    loss = g.SoftmaxCrossEntropy()(g.Dense(3)(rows), label)
    executor = loss.get_training_executor(adam(), ["cpu"], engine=engine, threads=1)
    x.read.clear()
    executor.execute(1, progress=False)
    return {f"rank{rank}": np.array(read, np.int64) for rank, read in enumerate(engine.gather(x.read))}


def other_seeds(engine: Any, comm: Any) -> Found:
    """Every process draws weights of its own; those of rank 0 count, and it alone writes files."""
    rm.set_seed(100 + engine.rank)
    x, y = g.DistributorElement(images(), labels(), batch_size=BATCH, shuffle=False).get_output_graphs()
    model = g.Sequential([g.Flatten(), g.Dense(3)])
    executor = g.SoftmaxCrossEntropy()(model(x), y).get_training_executor(adam(), ["cpu"], engine=engine, threads=1)
    executor.execute(1, progress=False)
    return {**executor.session.parameters, "rank": np.array(len(executor.history.losses))}


def half(engine: Any, comm: Any) -> Found:
    """Gradients as float16 on the wire."""
    return trained(perceptron(), rm.runtime.MpiEngine(comm, wire_dtype="float16"))


class Counting:
    """A communicator that counts the bytes that its processes hand to collective calls, by element type."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self.bytes: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._comm, name)
        if name not in {"Alltoall", "Allgather", "Allreduce"}:
            return call

        def counted(sent: Any, received: Any) -> Any:
            array = sent if isinstance(sent, np.ndarray) else received
            self.bytes[array.dtype.name] = self.bytes.get(array.dtype.name, 0) + array.nbytes
            return call(sent, received)

        return counted


def wire(engine: Any, comm: Any) -> Found:
    """A sum of numbers of very different sizes as float16, what it should be, and the bytes that it took."""
    from mpi4py import MPI

    from renom_onnx.runtime.processes.wire import Wire

    n = 10_001
    magnitudes = 10.0 ** np.random.default_rng(0).uniform(-4, 3, (comm.size, n))
    values = (magnitudes * np.random.default_rng(1).choice([-1, 1], (comm.size, n))).astype(np.float32)
    flat = values[comm.rank].copy()
    counting = Counting(comm)
    Wire(MPI).allreduce(counting, flat)
    overflown = np.array([1, np.inf, 3, np.nan], np.float32)
    Wire(MPI).allreduce(comm, overflown)
    zeros = np.zeros(5, np.float32)
    Wire(MPI).allreduce(comm, zeros)
    return {
        "sum": flat,
        "exact": values.astype(np.float64).sum(0),
        "absolute": np.abs(values.astype(np.float64)).sum(0),
        "bytes": np.array([counting.bytes["uint16"], sum(counting.bytes.values())]),
        "overflown": overflown,
        "zeros": zeros,
    }


def apart_model() -> Any:
    rm.set_seed(0)
    loss = perceptron()(images(12), labels(12))
    return rm.converters.to_training_onnx(loss, adam())


def apart_batches() -> list[dict[str, Array]]:
    """Seven batches of 7 rows, and one whose rows are fewer than the processes."""
    rng = np.random.default_rng(3)
    return [
        {"x": rng.standard_normal((n, 2, 6, 6)).astype(np.float32), "y": rng.integers(0, 3, n)}
        for n in [7, 7, 7, 1, 7, 7, 7, 7]
    ]


def apart(engine: Any, comm: Any) -> Found:
    """Local SGD of a session: weights and state after eight steps, and how often the network was used."""

    class Counted(rm.runtime.MpiEngine):
        n_sums = 0

        def allreduce(self, buffers: Any, n_exact: int | None = None) -> None:
            Counted.n_sums += 1
            super().allreduce(buffers, n_exact)

    session = rm.runtime.DistributedTrainingSession(
        apart_model(), ["cpu"], engine=Counted(comm), average_every=3, threads=1
    )
    for batch in apart_batches():
        session.step(batch)
    session.settle()
    state = {name: session.read(name) for name in session._step.bindings}
    return {**state, "n_sums": np.array(Counted.n_sums)}


def apart_without_learning(engine: Any, comm: Any) -> Found:
    """The losses that local SGD tells are those of all rows."""
    run = train(perceptron(), lambda: g.Sgd(0.0), 1, engine=engine, threads=1, average_every=3)
    return {"history": np.array(run.executor.history.losses)}


def drifting(engine: Any, comm: Any) -> Found:
    """A process whose learning rate differs is found out, and gets the weights of rank 0."""
    import warnings

    rm.set_seed(0)
    data = g.DistributorElement(images(), labels(), batch_size=BATCH, shuffle=False)
    optimizer = adam()
    executor = perceptron()(*data.get_output_graphs()).get_training_executor(
        optimizer, ["cpu"], engine=engine, threads=1
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        executor.execute(25, progress=False, learning_rate=lambda n: 0.01 + 0.001 * (engine.rank == 1))
    words = [str(w.message) for w in caught if w.category is RuntimeWarning]
    return {
        "words": np.array(engine.gather(words)[0]),
        "equal": np.array(len(set(engine.gather(executor.session._digest())))),
    }


FOR_RANKS: dict[str, Callable[[Any, Any], Found]] = {
    "rows read": rows_read,
    "other seeds": other_seeds,
    "half": half,
    "wire": wire,
    "apart": apart,
    "apart without learning": apart_without_learning,
    "drifting": drifting,
}


def bits(found: Found) -> dict[str, bytes]:
    return {name: np.asarray(array).tobytes() for name, array in found.items()}


def main(folder: str) -> None:
    """Run every case on 2, 3 and 4 ranks; the first rank of each group writes what was found, equal on all of them."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    for size in range(2, world.size + 1):
        group = world.Split(0 if world.rank < size else MPI.UNDEFINED)
        if world.rank < size:
            engine = rm.runtime.MpiEngine(group)
            for name in [*CASES, *FOR_RANKS]:
                found = CASES[name](engine) if name in CASES else FOR_RANKS[name](engine, group)
                others = group.allgather(bits(found))
                if any(other != others[0] for other in others):
                    raise AssertionError(f"{name} on {size} ranks: not the same bits everywhere")
                if world.rank == 0:
                    np.savez(Path(folder, f"{name}-{size}.npz"), **found)
        world.Barrier()


if __name__ == "__main__":
    main(sys.argv[1])
