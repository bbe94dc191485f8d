"""The examples do what they say, at small size where that is enough."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from examples import digits, draw_graph, lstm, resnet, stock_training, transformer

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a short run, whose accuracy is too low for the demonstration."""
    output = tmp_path_factory.mktemp("demo") / "output"
    assert digits.main(["--epochs", "1", "--output", str(output)]) == 1
    return output


def test_demo_passes_and_says_what_it_wrote(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert digits.main(["--output", str(tmp_path)]) == 0
    printed, progress = capfd.readouterr()
    assert printed.count("  ok      ") == 4
    assert "FAILED" not in printed
    assert "epoch 16: 100%" in progress
    for name in digits.FILES:
        assert str(tmp_path / name) in printed
        assert (tmp_path / name).stat().st_size > 10_000


def test_demo_fails_when_the_accuracy_is_too_low(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    command = [sys.executable, "-m", "examples.digits", "--epochs", "1", "--output", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert "FAILED  " in result.stdout
    assert "Try next" not in result.stdout


def test_demo_fails_when_a_file_disagrees(folder: Path, capfd: pytest.CaptureFixture[str]):
    train, test = digits.load()
    scores = digits.run_in_stock_onnxruntime(folder / "digits.onnx", test.images)
    scores[:, 0] += 1
    assert not digits.check(folder, scores, train, test)
    assert "FAILED  digits.onnx" in capfd.readouterr().out


def test_split_is_fixed_and_disjoint():
    (train, test), (again, _) = digits.load(), digits.load()
    assert np.array_equal(train.images, again.images)
    assert len(train.labels) + len(test.labels) == 1797
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in test.images}


def test_stock_onnxruntime_takes_the_same_steps_as_a_session(folder: Path):
    train, _ = digits.load()
    stock = stock_training.StockTraining(folder / "digits.train.onnx")
    session = rm.runtime.TrainingSession(folder / "digits.train.onnx", device="cpu")
    for start in range(0, 160, 32):
        feeds = {"x": train.images[start : start + 32], "y": train.labels[start : start + 32]}
        assert stock.step(feeds) == pytest.approx(float(session.step(feeds)), rel=1e-4)
    for name, array in stock.state.items():
        np.testing.assert_allclose(array, session.read(name), rtol=1e-3, atol=1e-5, err_msg=name)


def test_stock_training_never_imports_the_library(folder: Path):
    program = (
        "import sys; sys.modules['renom_onnx'] = None; from examples import stock_training; "
        f"stock_training.main([{str(folder / 'digits.train.onnx')!r}, '--epochs', '2'])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    losses = [float(line.split()[-1]) for line in result.stdout.splitlines()]
    assert losses[1] < losses[0]
    assert "Initializer" not in result.stderr


def test_drawing_puts_every_node_in_its_lane():
    graph = draw_graph.read(draw_graph.small_model())
    draw_graph.place(graph)
    lanes = {lane: [] for lane in (draw_graph.FORWARD, draw_graph.GRADIENT, draw_graph.UPDATE)}
    for box in sorted(graph.boxes, key=lambda box: (box.column, box.row)):
        lanes[box.lane].append(box.node.op_type)
    assert lanes == {
        "forward": ["Gemm", "Relu", "Gemm", "SoftmaxCrossEntropyLoss"],
        "gradient": ["GemmGrad", "ReluGrad", "GemmGrad", "SoftmaxCrossEntropyLossGrad", "Ones"],
        "update": ["SGD", "SGD", "SGD", "SGD"],
    }
    assert list(graph.inputs) == ["x", "y"]
    assert list(graph.outputs) == ["output", "loss"]


def test_drawing_any_training_file(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    picture = tmp_path / "graph.png"
    draw_graph.main([str(folder / "digits.train.onnx"), "--output", str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert capfd.readouterr().out.startswith(f"Drew {picture}")


def test_trained_file_passes_the_linter(folder: Path):
    assert rm.converters.lint(onnx.load(folder / "digits.train.onnx")) == []


def test_picture_in_the_documentation_is_small():
    assert 0 < (ROOT / "docs/pictures/training-graph.png").stat().st_size < 150_000


EXAMPLES = {"resnet": (resnet, 4, 97), "lstm": (lstm, 3, 80), "transformer": (transformer, 3, 95)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_learns_and_its_file_answers(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    example, epochs, percent = EXAMPLES[name]
    example.main(["--epochs", str(epochs), "--output", str(tmp_path)])
    printed = capfd.readouterr().out
    (path,) = tmp_path.glob("*.onnx")
    assert f"by {path}, run by onnxruntime alone." in printed
    assert float(re.findall(r"([\d.]+)% of", printed)[-1]) > percent
    assert rm.converters.lint(onnx.load(path)) == []


def test_transformer_is_asked_about_the_answer_only():
    tokens, following = transformer.tokens_and_next(np.array([[3, 1, 2, 0, 9, 1]]))
    assert tokens.tolist() == [[3, 1, 2, 0, 9, 1, 0, 1, 1, 2, 3]]
    assert following.tolist() == [[-1, -1, -1, -1, -1, 0, 1, 1, 2, 3, 9]]
