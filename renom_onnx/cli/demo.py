"""``renom-onnx demo``: train a small network, and write the files that the examples of all commands use."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from renom_onnx.cli.arguments import file_text, positive, print_json
from renom_onnx.cli.command import DONE, PROBLEM, Command

Array = np.ndarray[Any, Any]
CLASSES = ("disc", "square", "cross")
SIZE = 16
N_TRAIN, N_TEST = 1200, 300
N_IMAGES = 60
"""Images that are also written as files."""
ACCURACY = 0.95
"""What the network must reach on images that it was not trained on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where the files go (default: demo)")
    parser.add_argument("--epochs", type=positive, default=10, metavar="N", help="passes over the images (default: 10)")


def run(options: argparse.Namespace) -> int:
    """Train, write and check."""
    import renom_onnx as rm

    rm.set_seed(0)
    images, labels = shapes(N_TRAIN + N_TEST, np.random.default_rng(0))
    train, test = slice(N_TRAIN), slice(N_TRAIN, None)
    x, y = rm.graph.DistributorElement(images[train], labels[train], batch_size=50, shuffle=True).get_output_graphs()
    model = network()
    loss = rm.graph.SoftmaxCrossEntropy()(model(x), y)
    optimizer = rm.graph.Adam(0.005)
    history = loss.get_training_executor(optimizer).execute(epochs=options.epochs)

    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    rm.export(model, folder / "shapes.onnx")
    rm.export_training(loss, optimizer, folder / "shapes.train.onnx")
    np.savez(folder / "shapes.npz", x=images[test], y=labels[test])
    np.save(folder / "one.npy", images[test][:1])
    write_images(folder / "images", images[test][:N_IMAGES], labels[test])
    scores = rm.runtime.InferenceSession(folder / "shapes.onnx").run({"x": images[test]})["output"]
    accuracy = float(np.mean(scores.argmax(axis=1) == labels[test]))

    files = [folder / name for name in ("shapes.onnx", "shapes.train.onnx", "shapes.npz", "one.npy")]
    pictures = folder / "images"
    if options.json:
        facts = {"files": [str(file) for file in files], "losses": list(history.losses), "accuracy": accuracy}
        print_json({**facts, "classes": list(CLASSES)})
        return DONE if accuracy >= ACCURACY else PROBLEM
    print(f"A network learned to tell {', '.join(CLASSES)} apart in images of {SIZE} x {SIZE} pixels.")
    print(f"loss {history.losses[0]:.3f} -> {history.losses[-1]:.3f}, accuracy on {N_TEST} other images {accuracy:.1%}")
    meanings = ("the model, for any ONNX runtime", "the same, which can be trained on", "images and labels", "an image")
    for file, meaning in zip(files, meanings, strict=True):
        print(f"  {file_text(file):<36} {meaning}")
    print(f"  {pictures!s:<36} {N_IMAGES} images as files, by class")
    if accuracy < ACCURACY:
        print(f"FAILED: the accuracy must be {ACCURACY:.0%} or more.")
        return PROBLEM
    page = folder / "shapes.html"
    print(f"Try next:\n  renom-onnx doctor {files[0]}\n  renom-onnx show {files[1]} --html {page}")
    print(f"  renom-onnx infer {files[0]} {files[2]}")
    print(f"  renom-onnx train {files[1]} {pictures} --validation 0.2")
    return DONE


def network() -> Any:
    """Return the network that tells the shapes apart."""
    from renom_onnx import graph as g

    layers = [layer for n in (8, 16) for layer in (g.Conv(n, kernel=3), g.Relu(), g.MaxPool(2, stride=2))]
    return g.Sequential([*layers, g.Flatten(), g.Dense(len(CLASSES))])


def shapes(n: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """Return noisy images float32 (n, 1, 16, 16) of discs, squares and crosses, and what they show, int64 (n,)."""
    labels = generator.integers(0, len(CLASSES), n)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    images = np.zeros((n, 1, SIZE, SIZE), np.float32)
    for image, label in zip(images[:, 0], labels, strict=True):
        radius = generator.uniform(3, 5.5)
        dy, dx = (grid - center for grid, center in zip((rows, columns), generator.uniform(6, 9, 2), strict=True))
        across, down = np.abs(dx), np.abs(dy)
        inside = {
            "disc": np.hypot(dx, dy) <= radius,
            "square": np.maximum(across, down) <= 0.85 * radius,
            "cross": (np.minimum(across, down) <= 0.3 * radius) & (np.maximum(across, down) <= radius),
        }
        image[inside[CLASSES[label]]] = generator.uniform(0.6, 1)
    images += generator.normal(0, 0.15, images.shape).astype(np.float32)
    return images, labels.astype(np.int64)


def write_images(folder: Path, images: Array, labels: Array) -> None:
    """Write images as .pgm files, in a folder for each class."""
    for number, (image, label) in enumerate(zip(images, labels, strict=False)):
        path = folder / f"{label}-{CLASSES[label]}" / f"{number:03}.pgm"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (image[0].clip(0, 1) * 255).round().astype(np.uint8)
        path.write_bytes(f"P5 {SIZE} {SIZE} 255\n".encode() + pixels.tobytes())


COMMAND = Command(
    "demo",
    "train a small network in seconds and write the files that all examples use",
    "Train a small network to tell discs, squares and crosses apart, write it as an inference file and as a file that "
    "can be trained on, and check the files. Nothing is downloaded. Exit code 1 means that it did not learn enough.",
    (
        (
            "renom-onnx demo",
            "writes demo/shapes.onnx, demo/shapes.train.onnx, demo/shapes.npz, demo/one.npy and demo/images",
        ),
        ("renom-onnx demo --folder elsewhere --json", "into another folder, with a report as JSON"),
    ),
    add_arguments,
    run,
)
