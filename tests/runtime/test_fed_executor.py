"""ReNom 3.0's executor: placeholders are fed with arrays and distributors, in training, validation and inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import renom_onnx as rm

g = rm.graph
RNG = np.random.default_rng(0)
X, Y = (RNG.standard_normal((10, n), dtype=np.float32) for n in (3, 2))
VX, VY = (RNG.standard_normal((7, n), dtype=np.float32) for n in (3, 2))


class Program:
    """A model on placeholders, with the same weights every time."""

    def __init__(self) -> None:
        rm.set_seed(0)
        self.x, self.y = g.Placeholder((None, 3), name="x"), g.Placeholder((None, 2), name="y")
        self.dense = g.Dense(2)
        self.loss = g.MeanSquared()(self.dense(self.x), self.y)

    def executor(self, mode: str = "training", optimizer: Any = None) -> Any:
        return self.loss.get_executor(mode, optimizer or g.Adam(0.05), ["cpu"])

    def loss_of(self, x: Any, y: Any) -> float:
        w, b = (self.dense.params[k].as_ndarray() for k in "wb")
        return float(((x @ w + b - y) ** 2).sum() / 2 / len(x))


def plain(epochs: int, batch_size: int, **options: Any) -> Any:
    """Return the history of the same training without placeholders."""
    rm.set_seed(0)
    x, y = g.DistributorElement(X, Y, batch_size=batch_size, shuffle=False).get_output_graphs()
    loss = g.MeanSquared()(g.Dense(2)(x), y)
    return loss.get_training_executor(g.Adam(0.05), ["cpu"]).execute(epochs, progress=False, **options)


def test_training_on_the_outputs_of_a_distributor_is_that_without_placeholders():
    program = Program()
    x, y = g.DistributorElement(X, Y, batch_size=4, shuffle=False).get_output_graphs()
    executor = program.executor()
    history = executor.execute({program.x: x, program.y: y}, epochs=2, progress=False)
    session = executor._built[1].session
    assert executor.execute({program.x: x, program.y: y}, progress=False) is history is executor.history
    assert executor._built[1].session is session
    assert history.losses == plain(3, 4).losses


def test_what_was_fed_stays():
    program = Program()
    x, y = g.DistributorElement(X, Y, batch_size=4, shuffle=False).get_output_graphs()
    executor = program.executor()
    executor.execute({program.x: x, program.y: y}, progress=False)
    assert executor.execute(epochs=2, progress=False).losses == plain(3, 4).losses


def test_arrays_are_one_step_and_other_arrays_go_on_in_the_same_session():
    program = Program()
    executor = program.executor()
    executor.execute({program.x: X, program.y: Y}, progress=False)
    session = executor._built[1].session
    losses = executor.execute({program.x: X[:3], program.y: Y[:3]}, epochs=2, progress=False).losses
    assert executor._built[1].session is session
    assert len(losses) == 3
    assert losses[0] == plain(1, 10).losses[0]


def test_steps_of_training_update():
    program = Program()
    executor = program.executor()
    losses = [executor.step({program.x: X, program.y: Y}) for _ in range(3)]
    assert losses == [np.float32(loss) for loss in plain(3, 10).losses]
    assert isinstance(losses[0], np.ndarray)


def test_steps_of_inference_do_not():
    program = Program()
    prediction = program.dense(program.x).get_executor()
    before = program.dense.params["w"].as_ndarray()
    for rows in (X, X[:2]):
        found = prediction.step({program.x: rows})
        np.testing.assert_allclose(found, rows @ before, rtol=1e-5, atol=1e-6)


def test_steps_end_with_the_data():
    program = Program()
    data = g.DistributorElement(X, Y, batch_size=5, shuffle=False)
    x, y = data.get_output_graphs()
    executor = program.executor("inference")
    executor.step({program.x: x, program.y: y})
    executor.step()
    executor.step()  # the empty batch of an even division
    with pytest.raises(StopIteration):
        executor.step()
    data.reset()
    assert float(executor.step()) == pytest.approx(program.loss_of(X[:5], Y[:5]), rel=1e-5)


def test_inference_over_an_epoch():
    program = Program()
    x, y = g.DistributorElement(X, Y, batch_size=4).get_output_graphs()
    losses = program.executor("inference").execute({program.x: x, program.y: y}, epochs=2, progress=False).losses
    np.testing.assert_allclose(losses, [program.loss_of(X, Y)] * 2, rtol=1e-5)


def test_a_computed_element_may_be_fed_and_is_trained_too():
    program = Program()
    below = g.Dense(3)
    source = below(X)
    before = below.params["w"].as_ndarray()
    program.executor().execute({program.x: source, program.y: Y}, progress=False)
    assert not np.array_equal(below.params["w"].as_ndarray(), before)


VALIDATION: dict[str, Callable[[], tuple[Any, Any]]] = {
    "arrays": lambda: (VX, VY),
    "static variables": lambda: (g.StaticVariable(VX), g.StaticVariable(VY)),
    "a distributor": lambda: g.DistributorElement(VX, VY, batch_size=3, shuffle=False).get_output_graphs(),
    "its outputs the other way round": lambda: g.DistributorElement(VY, VX, batch_size=3).get_output_graphs()[::-1],
    "two distributors": lambda: tuple(
        g.DataInput(data).index().batch(size).get_output_graphs() for data, size in ((VX, 3), (VY, 2))
    ),
    "an output and an array": lambda: (g.DataInput(VX).index().batch(3).get_output_graphs(), VY),
}


@pytest.mark.parametrize("training", ["arrays", "distributor"])
@pytest.mark.parametrize("make", VALIDATION.values(), ids=VALIDATION)
def test_validation_is_the_loss_of_the_other_data_after_each_epoch(make: Any, training: str):
    program = Program()
    data = (X, Y) if training == "arrays" else g.DistributorElement(X, Y, batch_size=4).get_output_graphs()
    vx, vy = make()
    expected = []
    executor = program.executor()
    executor.register_event("Epoch-Finish", lambda event: expected.append(program.loss_of(VX, VY)))
    feed, validation = ({program.x: a, program.y: b} for a, b in (data, (vx, vy)))
    executor.execute(feed, validation, 2, False)
    history = executor.execute(feed, validation_feed_dict=validation, progress=False)
    np.testing.assert_allclose(history.validation_losses, expected, rtol=1e-4)
    assert len(history.validation_losses) == 3


def test_one_placeholder_of_a_distributors_second_output():
    x = g.Placeholder((None, 3))
    dense = g.Dense(1)
    loss = g.ConstantLoss("mean")(dense(x))
    _, second = g.DistributorElement(Y, X, batch_size=4).get_output_graphs()
    history = loss.get_executor("training", "sgd", ["cpu"]).execute({x: second}, {x: VX}, progress=False)
    w, b = (dense[k].as_ndarray() for k in "wb")
    assert history.validation_losses == [pytest.approx(float((VX @ w + b).mean()), rel=1e-4)]


def test_events_name_this_executor_and_survive_another_tree():
    program = Program()
    executor = program.executor()
    seen = []
    executor.register_event("Epoch-Finish", seen.append)
    executor.execute({program.x: X, program.y: Y}, progress=False)
    executor.execute({program.x: g.StaticVariable(X)}, progress=False)
    assert [(e.executor, e.epoch, e["mode"]) for e in seen] == [(executor, 0, "training"), (executor, 1, "training")]
    executor.unregister_events("Epoch-Finish")
    executor.execute(progress=False)
    assert len(seen) == 2


def test_the_bar_is_on_stderr_or_not_at_all(capsys: pytest.CaptureFixture[str]):
    program = Program()
    executor = program.executor()
    executor.execute({program.x: X, program.y: Y}, progress=False)
    assert capsys.readouterr() == ("", "")
    executor.execute({program.x: X, program.y: Y})
    out, err = capsys.readouterr()
    assert (out, "epoch 2" in err) == ("", True)


def trained(feed: Any, validation: Any, mode: str = "training") -> Any:
    program = Program()
    names = {"x": program.x, "y": program.y}
    dicts = ({names.get(k, k): v for k, v in given.items()} for given in (feed, validation))
    return program.executor(mode).execute(*dicts, progress=False)


DATA = {"x": X, "y": Y}
STRANGER = g.Placeholder((None, 3), name="z")
ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "mode": (
        lambda: Program().executor("train"),
        rm.ConversionError,
        "get_executor: mode must be 'inference' or 'training', got 'train'.",
    ),
    "event": (
        lambda: Program().executor().register_event("Step", print),
        rm.ConversionError,
        "Executor: an event must be one of Initialize, Epoch-Start, Step-Start, Step-Finish, Epoch-Finish, Teardown, "
        "got 'Step'.",
    ),
    "validation in inference": (
        lambda: trained(DATA, DATA, "inference"),
        rm.ConversionError,
        "execute: validation data must be given in training, got mode 'inference'.",
    ),
    "half of the validation": (
        lambda: trained(DATA, {"x": VX}),
        rm.ConversionError,
        "execute: validation data must be fed to every placeholder, got 'x'. Let all data of the training come through "
        "placeholders.",
    ),
    "a strange placeholder": (
        lambda: trained(DATA, {STRANGER: VX}),
        rm.ConversionError,
        "execute: validation data must be fed to a placeholder that is fed data in training, got 'z'.",
    ),
    "computed validation": (
        lambda: trained(DATA, {"x": g.StaticVariable(VX) * 2, "y": VY}),
        rm.ConversionError,
        "execute: validation data must be arrays or outputs of a distributor, got Mul (F).",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS.values(), ids=ERRORS)
def test_an_error_says_rule_and_what_was_got(call: Any, kind: Any, message: str):
    with pytest.raises(kind) as raised:
        call()
    assert str(raised.value) == message
