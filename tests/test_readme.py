"""The README is true: its programs run, its commands and links exist, its names are public."""

import contextlib
import io
import operator
import re
from pathlib import Path

import numpy as np
import pytest

import renom_onnx as rm

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def after_running(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the README's programs leave behind, run one after the other in an empty folder."""
    rm.set_seed(0)
    namespace: dict[str, object] = {"printed": io.StringIO()}
    with contextlib.chdir(tmp_path_factory.mktemp("readme")), contextlib.redirect_stdout(namespace["printed"]):
        for number, program in enumerate(PROGRAMS, 1):
            exec(compile(program, f"<README.md, program {number}>", "exec"), namespace)
    return namespace


def test_programs_train(after_running: dict[str, object]):
    first, last = (float(loss) for loss in re.findall(r"loss (\S+) -> (\S+)", after_running["printed"].getvalue())[0])
    assert last < first / 2


def test_the_tuned_model_learned(after_running: dict[str, object]):
    losses = after_running["losses"]
    assert losses[-1] < 0.7 * losses[0]


def test_stock_onnxruntime_trains_on(after_running: dict[str, object]):
    assert after_running["batch_loss"] < after_running["history"].losses[0] / 2
    assert after_running["state"]["step"] == 10 * 40 + 1 + 40


def test_gradient_points_inside(after_running: dict[str, object]):
    x_grad, points = after_running["x_grad"], after_running["points"][:3]
    assert x_grad.shape == (3, 2)
    assert np.all((x_grad * points).sum(axis=1) < 0)


def test_twenty_lines_are_twenty():
    assert len([line for line in PROGRAMS[0].splitlines() if line]) <= 20


def test_commands_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    commands = re.findall(r"\bmake ([a-z]+)", README)
    assert commands
    for target in commands:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_extras_exist():
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
    for extras in re.findall(r'"\.\[(\S+)\]"', README):
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE), extra


def test_modules_exist():
    for module in re.findall(r"python -m ([\w.]+)", README):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module


def test_commands_of_the_program_exist():
    from renom_onnx.cli.program import commands

    found = re.findall(r"^renom-onnx (\S+)", README, re.MULTILINE)
    assert len(found) >= 5
    assert set(found) <= set(commands())


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_names_are_public():
    for name in set(re.findall(r"\brm((?:\.\w+)+)", README)):
        assert operator.attrgetter(name[1:])(rm) is not None


def test_what_is_there_is_there():
    listed = re.search(r"\*\*There:\*\*(.*?)\n\n", README, re.DOTALL)[1]
    words = re.findall(r"`([A-Z]\w+)`", listed)
    assert len(words) > 10
    assert [word for word in words if not hasattr(rm.graph, word)] == []
