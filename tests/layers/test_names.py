"""Contract: everything that `renom.py` lists is importable, takes ReNom's arguments, and says formula and shapes."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import pytest

import renom_onnx as rm
from renom_onnx.graph.spelling import ARGUMENTS, DEVICES, NOT
from tests.layers import renom
from tests.layers.renom import ROWS, Row
from tests.messages import Cases, message_of

g = rm.graph


def ours(kind: type, argument: str) -> str:
    """Return what an argument of ReNom's is called here."""
    words = [words[argument] for base in kind.__mro__ if argument in (words := ARGUMENTS.get(base, {}))]
    return words[0] if words else argument


def default(kind: type, name: str) -> Any:
    """Return the default of an argument; the settings of layers are those of the base."""
    for base in (kind, rm.graph.Layer):
        found = inspect.signature(base).parameters.get(name.removeprefix(NOT))
        if found is not None:
            value = ... if found.default is inspect.Parameter.empty else found.default
            return not value if name.startswith(NOT) and value is not ... else value
    return None


def operands(name: str) -> dict[str, Any]:
    """Return what `UnPool` alone needs."""
    return {"prev_pool": g.MaxPool(2)(np.zeros((1, 1, 4, 4), np.float32))} if name == "UnPool" else {}


@pytest.mark.parametrize("name", ROWS)
def test_every_spelling_is_the_same_thing_and_public(name: str):
    for spelling in (name, *ROWS[name].others):
        assert getattr(g, spelling) is getattr(g, name)
        assert spelling in g.__all__


@pytest.mark.parametrize(("name", "argument"), [(n, a) for n in ROWS for a in ROWS[n].arguments])
def test_every_argument_is_taken_by_renoms_name(name: str, argument: str):
    row: Row = ROWS[name]
    given = {**row.needed, **operands(name)}
    value = row.arguments[argument]
    if value is not ...:
        given[argument] = value
    assert argument in given
    getattr(g, name)(**given)


@pytest.mark.parametrize(("name", "argument"), [(n, a) for n in ROWS for a in ROWS[n].arguments])
def test_every_default_is_renoms_or_says_why_not(name: str, argument: str):
    kind, row = getattr(g, name), ROWS[name]
    found = ours(kind, argument)
    if found == DEVICES:
        return
    is_same = default(kind, found) == row.arguments[argument]
    assert is_same is (argument not in row.differs), (default(kind, found), row.differs.get(argument))


@pytest.mark.parametrize("name", ROWS)
def test_the_documentation_has_formula_and_shapes(name: str):
    text = " ".join((inspect.getdoc(getattr(g, name)) or "").split())
    assert ROWS[name].formula in text
    assert ROWS[name].shapes in text


@pytest.mark.parametrize("name", renom.FUNCTIONS)
def test_every_function_takes_the_arguments_after_its_operands(name: str):
    function = getattr(g, name)
    parameters = inspect.signature(function).parameters
    for argument, value in renom.FUNCTIONS[name].items():
        found = parameters[argument].default
        found = ... if found is inspect.Parameter.empty else found
        assert (found == value) is ((name, argument) not in renom.FUNCTIONS_DIFFER), argument
    assert name in g.__all__
    assert function.__doc__


@pytest.mark.parametrize("name", renom.INITIALIZERS)
def test_every_initializer_is_in_both_places(name: str):
    kind = getattr(rm.utility.initializer, name)
    assert getattr(g.train.initializer, name) is kind
    for argument, value in renom.INITIALIZERS[name].items():
        assert default(kind, argument) == value
    assert re.search(r"[=*^(]|value", kind.__doc__)


def exists(thing: Any, path: str) -> bool:
    for part in path.split("."):
        if not hasattr(thing, part):
            return False
        thing = getattr(thing, part)
    return True


LISTS: dict[str, tuple[Any, list[str]]] = {
    "graph": (g, renom.RELEASE),
    "core": (g.core, renom.CORE),
    "rm": (rm, renom.TOP),
    "cuda": (rm.cuda, renom.CUDA),
}


@pytest.mark.parametrize(("where", "name"), [(where, name) for where in LISTS for name in LISTS[where][1]])
def test_every_name_of_the_release_is_here_or_says_why_not(where: str, name: str):
    thing, _ = LISTS[where]
    is_public = exists(thing, name) and (name in thing.__all__ or name == "__version__")
    assert is_public is (f"{where}.{name}" not in renom.OUT)


@pytest.mark.parametrize("name", renom.SEEDS_V2)
def test_the_seeds_v2_is_at_top_level(name: str):
    assert exists(rm, name)


def test_the_seeds_v2_methods():
    dense = rm.Dense(2)
    with dense.train():
        total = rm.sum(dense(np.ones((1, 3))))
    gradients = total.grad()
    assert gradients.get(total) is not None
    gradients.update(rm.Sgd())
    assert len(list(rm.NdarrayDistributor(np.ones(3), np.ones(3)).batch(batch_size=2, shuffle=False))) == 2


def things() -> dict[str, Any]:
    dense = g.Dense(2)
    element = dense(np.ones((1, 3), np.float32))
    return {
        "element": element,
        "layer": dense,
        "parameter": dense.params["w"],
        "executor": element.get_executor(),
        "distributor": g.DistributorElement(np.ones(2), np.ones(2)),
        "data input": g.DataInput(np.ones(2)),
    }


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in renom.METHODS for name in renom.METHODS[kind]])
def test_every_method_is_there_and_documented(kind: str, name: str):
    found = getattr(things()[kind], name)
    assert not callable(found) or found.__doc__


def test_what_is_out_says_why():
    assert all(len(why) > 10 for why in renom.OUT.values())


# ReNom's words


def test_renoms_words_mean_what_ours_do():
    dense = g.Dense(output_size=3, ignore_bias=True)
    assert (dense.units, dense.bias) == (3, False)
    assert g.Dense(3, ignore_bias=False).bias
    assert g.Conv(channel=5).channels == 5
    assert g.Gru(output_size=7).units == 7
    assert g.Adamax(alpha=0.25).learning_rate == 0.25
    assert g.L1(wd=0.25).wd == 0.25
    data = g.Distro(data=np.ones(3), labels=np.ones(3), num_gpus=1)
    assert len(data) == 3
    assert str(inspect.signature(g.Dense)).startswith("(units: 'int'")


def test_a_sequential_has_renoms_attributes():
    model = g.Sequential([g.Dense(3), g.Relu()])
    assert (model.l0, model.l1) == (model[0], model[1])
    with pytest.raises(AttributeError, match=r"^'Sequential' object has no attribute 'l2'$"):
        _ = model.l2


def test_a_factory_of_renom_is_a_model():
    class Classifier(g.core.GraphFactory):
        def prepare(self, units: int, *, depth: int = 1) -> None:
            self.hidden = [g.Dense(units, activation="relu") for _ in range(depth)]
            self.last = g.Dense(2)

        def connect(self, x: Any) -> Any:
            for layer in self.hidden:
                x = layer(x)
            return self.last(x)

    model = Classifier(4, depth=2, optimizer="adam", parameter_decay={"w": 0.1})
    rng = np.random.default_rng(0)
    loss = g.MeanSquared()(model(rng.normal(size=(8, 5))), rng.normal(size=(8, 2)))
    before = loss.as_ndarray()
    loss.backward().update(g.Sgd(0.1))
    assert loss.as_ndarray() < before
    names = [name for name, _ in model.named_parameters()]
    assert names == ["hidden.0.w", "hidden.0.b", "hidden.1.w", "hidden.1.b", "last.w", "last.b"]
    assert all(type(p.optimizer) is g.Adam for p in model.parameters())
    assert [p.regularizer is not None for p in model.parameters()] == [True, False] * 3


ERRORS: Cases = {
    "devices": (
        lambda: g.StaticVariable(np.ones(2), num_gpus=2),
        rm.ConversionError,
        'StaticVariable: devices must be named where the model runs, got num_gpus=2. Give devices=["cuda:0", '
        '"cuda:1"] to get_training_executor. {created}',
    ),
    "both words": (
        lambda: g.Dense(units=3, output_size=4),
        TypeError,
        "Dense() got 'output_size' and 'units', which are one.",
    ),
    "a word and its opposite": (
        lambda: g.Dense(3, bias=True, ignore_bias=True),
        TypeError,
        "Dense() got 'ignore_bias' and 'bias', which are one.",
    ),
    "a factory without connect": (
        lambda: g.core.GraphFactory()(np.ones((1, 2))),
        NotImplementedError,
        "GraphFactory.connect: a factory must define it, got the base class's.",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS.values(), ids=ERRORS)
def test_an_error_says_rule_and_what_was_got(call: Any, kind: Any, message: str):
    assert message_of(call, kind) == message


def test_the_page_of_names_is_that_of_the_data():
    from docs import renom as page

    assert page.TARGET.read_text("utf-8") == page.page(), "run python -m docs.renom"
