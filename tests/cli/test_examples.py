"""Every example that a --help prints is run as it is printed, in a folder where `renom-onnx demo` has run."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest

from renom_onnx.cli import main
from renom_onnx.cli.program import MODULES, commands

Result = tuple[int, str, str]


def run(line: str, folder: Path) -> Result:
    """Return exit code, stdout and stderr of a command line."""
    words = shlex.split(line)
    assert words[0] == "renom-onnx"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words[1:])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli")
    code, out, _ = run("renom-onnx demo", path)
    assert code == 0, out
    return path


def printed_examples() -> list[str]:
    """The example lines of the help of every command, as they are printed."""
    found = []
    for name in commands():
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert main([name, "--help"]) == 0
        found += [line.strip() for line in out.getvalue().splitlines() if line.startswith("  renom-onnx ")]
    return found


EXAMPLES = printed_examples()
RESULTS: dict[str, Result] = {}


@pytest.mark.parametrize("line", EXAMPLES)
def test_example_works(line: str, folder: Path):
    RESULTS[line] = code, out, err = run(line, folder)
    assert code == 0, out + err
    assert out.strip()
    if "--json" in line:
        json.loads(out)


def test_every_command_has_examples():
    names = [line.split()[1] for line in EXAMPLES]
    assert set(names) == set(commands())
    assert all(names.count(name) >= 2 for name in commands())
    assert len(commands()) == len(MODULES)


def test_demo_says_what_it_wrote_and_what_to_do_next(folder: Path, tmp_path: Path):
    code, out, _ = run("renom-onnx demo --epochs 10", tmp_path)
    assert code == 0
    assert "accuracy on 300 other images 9" in out
    for name in ("shapes.onnx", "shapes.train.onnx", "shapes.npz", "one.npy"):
        assert str(Path("demo", name)) in out
        assert (tmp_path / "demo" / name).stat().st_size > 1000
        if not name.endswith("npz"):  # zip archives hold the time
            assert (tmp_path / "demo" / name).read_bytes() == (folder / "demo" / name).read_bytes()
    lines = out[out.index("Try next:") :].splitlines()[1:]
    assert len(lines) == 4
    for line in lines:
        assert run(line.strip(), folder)[0] == 0


def test_demo_fails_when_it_learns_too_little(tmp_path: Path):
    code, out, _ = run("renom-onnx demo --epochs 1", tmp_path)
    assert code == 1
    assert out.endswith("FAILED: the accuracy must be 95% or more.\n")
    assert run("renom-onnx demo --epochs 1 --json", tmp_path)[0] == 1


def test_what_the_examples_of_infer_give(folder: Path):
    with np.load(folder / "demo/shapes.npz") as data:
        scores = np.load(folder / "demo/scores.npy") if (folder / "demo/scores.npy").exists() else None
        line = "renom-onnx infer demo/shapes.onnx demo/shapes.npz --batch-size 7 --output demo/all.npz"
        code, out, err = run(line, folder)
        assert code == 0
        assert err.startswith("not fed, because the model has no such input: y\n")
        assert out.startswith(f"output float32[300, 3]\nWrote {Path('demo/all.npz')} (3.")
        with np.load(folder / "demo/all.npz") as results:
            assert np.mean(results["output"].argmax(axis=1) == data["y"]) > 0.95
            if scores is not None:
                np.testing.assert_allclose(scores, results["output"][:1], atol=1e-5)


def test_what_the_examples_of_export_give(folder: Path):
    run("renom-onnx export demo/shapes.train.onnx demo/inlined.onnx --inline", folder)
    run("renom-onnx export demo/shapes.train.onnx demo/large.onnx --external", folder)
    plain = json.loads(run("renom-onnx export demo/shapes.train.onnx demo/p.onnx --strip --opset 21 --json", folder)[1])
    assert plain == {"file": "demo/p.onnx", "opset": 21, "nodes": 8, "functions": 0, "training_steps": 0}
    inlined = onnx.load(folder / "demo/inlined.onnx")
    assert (len(inlined.functions), len(inlined.training_info)) == (0, 1)
    large = onnx.load(folder / "demo/large.onnx", load_external_data=False)
    assert any(tensor.external_data for tensor in large.graph.initializer)
    assert run("renom-onnx lint demo/large.onnx", folder)[0] == 0
