"""`make-trainable` and `train`: from a model and data in files to a fine-tuned model, without a program."""

import builtins
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.cli import training_data
from tests.cli.test_examples import run

g = rm.graph


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a model of two numbers, and one of small images."""
    rm.set_seed(0)
    rm.export(g.Sequential([g.Dense(8), g.Relu(), g.Dense(2)]), tmp_path / "two.onnx", inputs={"x": ("N", 2)})
    layers = [g.Conv(4, kernel=3), g.Relu(), g.Flatten(), g.Dense(3)]
    rm.export(g.Sequential(layers), tmp_path / "image.onnx", inputs={"image": ("N", 1, 8, 8)})
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2))
    labels = (x[:, 0] > 0).astype(np.int64)
    np.savez(tmp_path / "data.npz", x=x, labels=labels)
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    np.save(tmp_path / "labels.npy", labels)
    rows = "\n".join(f"{a},{b},{'right' if k else 'left'}" for (a, b), k in zip(x, labels, strict=True))
    (tmp_path / "data.csv").write_text(f"a,b,side\n{rows}\n")
    for k, name in enumerate(("dark", "light")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(100 * k, 100 * k + 100, (16, 16)).astype(np.uint8)
            (tmp_path / "images" / name / f"{i}.pgm").write_bytes(b"P5 16 16 255\n" + pixels.tobytes())
    return tmp_path


def done(line: str, folder: Path) -> str:
    code, out, err = run(f"renom-onnx {line}", folder)
    assert code == 0, err
    return out


def failed(line: str, folder: Path) -> str:
    code, _, err = run(f"renom-onnx {line}", folder)
    assert code == 2
    return err.strip().splitlines()[-1]


def test_from_a_model_and_a_folder_of_images_to_a_tuned_model_in_three_commands(folder: Path):
    pytest.importorskip("PIL", reason="it reads images")
    done("make-trainable image.onnx image.train.onnx --classes 2 --learning-rate 0.01", folder)
    out = done("train image.train.onnx images --epochs 20 --validation 0.2 --export tuned.onnx --json", folder)
    found = json.loads(out)
    assert found["rows"] == 16
    assert found["losses"][-1] < found["losses"][0]
    assert found["accuracy"][-1] == 1
    done("infer tuned.onnx --random", folder)
    assert onnx.load(folder / "tuned.onnx").graph.output[0].type.tensor_type.shape.dim[1].dim_value == 2


@pytest.mark.parametrize(
    "data",
    ["data.npz", "x=x.npy labels=labels.npy", "data.csv --columns x=a,b --columns labels=side"],
    ids=["npz", "npy", "csv"],
)
def test_all_forms_of_data_train_alike(folder: Path, data: str):
    done("make-trainable two.onnx two.train.onnx --learning-rate 0.05", folder)
    found = json.loads(done(f"train two.train.onnx {data} --epochs 15 --json --device cpu", folder))
    assert found["losses"][-1] < 0.5 * found["losses"][0]


def test_training_resumes_from_its_checkpoint_as_if_it_had_not_stopped(folder: Path):
    done("make-trainable two.onnx two.train.onnx", folder)
    whole = json.loads(done("train two.train.onnx data.npz --epochs 5 --output whole.onnx --json", folder))
    done("train two.train.onnx data.npz --epochs 2 --output parts.onnx", folder)
    rest = json.loads(done("train two.train.onnx data.npz --epochs 5 --output parts.onnx --resume --json", folder))
    assert rest["losses"] == whole["losses"]
    assert (folder / "parts.onnx").read_bytes() == (folder / "whole.onnx").read_bytes()
    assert "Nothing was left to train." in done(
        "train two.train.onnx data.npz --epochs 5 --output parts.onnx --resume", folder
    )


def test_what_was_decided_is_said(folder: Path):
    code, out, err = run("renom-onnx make-trainable image.onnx t.onnx --train last --dropout 0.5", folder)
    assert code == 0
    assert err.startswith("There is no BatchNormalization: ")
    assert out.endswith("2 parameters trained (435 numbers), 2 parameters frozen (40 numbers).\n")
    assert "Dropout" in {node.op_type for node in onnx.load(folder / "t.onnx").graph.node}
    found = json.loads(done("make-trainable image.onnx t.onnx --lora 2 --json", folder))
    assert found["trained"] == ["dense1.w.lora_A", "dense1.w.lora_B"]


def test_a_fixed_batch_size_is_freed_by_a_name(folder: Path):
    model = onnx.load(folder / "two.onnx")
    for info in (model.graph.input[0], model.graph.output[0]):
        info.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, folder / "one.onnx")
    done("make-trainable one.onnx one.train.onnx --batch-size N", folder)
    done("train one.train.onnx data.npz --epochs 1 --batch-size 8", folder)


def test_a_batch_size_that_stays_fixed_is_said(folder: Path):
    text = """<ir_version: 10, opset_import: ["": 18]> f (float[1,2,2] x) => (float[1,4] y)
        <int64[2] shape = {1, 4}, int64[1] first = {0}>
        { f = Gather<axis = 0>(x, first) r = Reshape(f, shape) y = MatMul(r, w) }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"))
    onnx.save(model, folder / "one.onnx")
    assert failed("make-trainable one.onnx one.train.onnx --batch-size N", folder) == (
        "renom-onnx make-trainable: --batch-size N must reach the outputs, got 'y' with 1 rows: a node of the model "
        "fixes them. Export it again with an open first axis (PyTorch: dynamic_shapes)."
    )
    done("make-trainable one.onnx one.train.onnx", folder)
    assert failed("train one.train.onnx data.npz --epochs 1", folder) == (
        "renom-onnx train: one.train.onnx: the batch size must be open, got 1 for x. Free it: renom-onnx "
        "make-trainable MODEL OUTPUT --batch-size N"
    )


def test_a_plot_and_a_learning_rate_are_taken(folder: Path):
    done("make-trainable two.onnx two.train.onnx --optimizer sgd --train dense2.* --freeze *.b", folder)
    before = (folder / "two.train.onnx").read_bytes()
    out = done("train two.train.onnx data.npz --epochs 1 --learning-rate 0 --plot loss.png --output same.onnx", folder)
    assert "Wrote loss.png" in out
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "two.train.onnx").read_bytes() == before
    weights = [{t.name: t.raw_data for t in onnx.load(folder / n).graph.initializer} for n in ("two.onnx", "same.onnx")]
    assert weights[0] == weights[1]


ERRORS = [
    (
        "train two.onnx data.npz",
        "renom-onnx train: two.onnx: it must hold a training step. Give it one: renom-onnx make-trainable",
    ),
    (
        "train two.train.onnx x=x.npy",
        "renom-onnx train: every input must have data, got none for labels int64[N].",
    ),
    (
        "train two.train.onnx data.csv --columns x=a,c",
        "renom-onnx train: data.csv: --columns must name columns for each input, got no column 'c'. There are: a, b, "
        "side.",
    ),
    (
        "train two.train.onnx data.csv --columns x=a,b",
        "renom-onnx train: data.csv: --columns must name columns for each input, got none for labels int64[N]. There "
        "are: a, b, side.",
    ),
    (
        "train two.train.onnx data.csv --columns x=a --columns labels=side",
        "renom-onnx train: data.csv: x float32[N, 2] must have 2 columns, got 1.",
    ),
    (
        "train two.train.onnx data.csv --columns x=a,side --columns labels=side",
        "renom-onnx train: data.csv: x float32[N, 2] must be numbers, got: could not convert string to float: 'right'",
    ),
    ("train two.train.onnx data.csv --columns x", "renom-onnx train: --columns must be INPUT=COLUMN,COLUMN, got 'x'."),
    (
        "train two.train.onnx data.npz --validation 0.001",
        "renom-onnx train: --validation must leave rows on both sides, got 0.001 of 40 rows.",
    ),
    (
        "train two.train.onnx images",
        "renom-onnx train: the image input must be (N, 1 or 3, height, width) with known sizes, got x float32[N, 2].",
    ),
    (
        "train image.train.onnx images/dark",
        "renom-onnx train: images/dark: it must hold a folder of images for each class, got none.",
    ),
    (
        "train image.train.onnx images --mean 0.1,0.2",
        "renom-onnx train: --mean must be one number, or one for each of 1 channels, got 2.",
    ),
    (
        "train floats.train.onnx images",
        "renom-onnx train: a folder of images fits a model of one image and class indices, got image float32[N, 1, 8, "
        "8], labels float32[N, 3].",
    ),
    (
        "train two.train.onnx x=x.npy labels=short.npy",
        "renom-onnx train: all inputs must have as many rows, got 40 of x, 3 of labels.",
    ),
    (
        "train two.train.onnx empty.csv",
        "renom-onnx train: empty.csv: a table must have a line of names and rows, got none.",
    ),
    (
        "make-trainable two.onnx t.onnx --optimizer adem",
        "renom-onnx make-trainable: --optimizer must be one of adadelta, adagrad, adam, adamax, adamw, lamb, lion, "
        "rmsprop, sgd, got 'adem'.",
    ),
]


@pytest.mark.parametrize(("line", "message"), ERRORS, ids=[line for line, _ in ERRORS])
def test_errors_say_what_to_do_in_one_line(folder: Path, line: str, message: str):
    for name, options in (("two", ""), ("image", ""), ("floats", "--loss mean_squared")):
        done(f"make-trainable {name.replace('floats', 'image')}.onnx {name}.train.onnx {options}", folder)
    np.save(folder / "short.npy", np.zeros(3, np.int64))
    (folder / "empty.csv").write_text("a,b\n")
    assert failed(line, folder) == message


def test_a_broken_image_is_named(folder: Path):
    pytest.importorskip("PIL", reason="it reads images")
    done("make-trainable image.onnx image.train.onnx", folder)
    (folder / "images" / "dark" / "0.pgm").write_bytes(b"nothing")
    message = failed("train image.train.onnx images --epochs 1", folder)
    assert message.startswith("renom-onnx train: images/dark/0.pgm: it must be an image, got: ")


def test_pillow_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch):
    done("make-trainable image.onnx image.train.onnx", folder)
    original = builtins.__import__

    def without(name: str, *arguments: object, **named: object) -> object:
        if name.split(".", maxsplit=1)[0] == "PIL":
            raise ImportError(name)
        return original(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    assert failed("train image.train.onnx images", folder) == (
        "renom-onnx train: a folder of images needs Pillow. Install it: pip install pillow"
    )


def test_images_are_scaled_normalized_and_put_channels_first(folder: Path):
    pytest.importorskip("PIL", reason="it reads images")
    path = folder / "two.ppm"
    path.write_bytes(b"P6 2 1 255\n" + bytes([255, 0, 0, 0, 0, 255]))
    images = training_data.Images([path], (3, 1, 2), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    np.testing.assert_array_equal(images[0], [[[1, -1]], [[-1, -1]], [[-1, 1]]])
    assert len(images.part(np.array([0, 0]))) == 2
