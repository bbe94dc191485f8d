"""Data to train on from files: arrays, a table, or a folder of images with one folder for each class."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from renom_onnx.cli.command import UsageError
from renom_onnx.cli.infer import fitted, read_arrays
from renom_onnx.graph.node import Shape, type_text

Array = np.ndarray[Any, Any]
IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class Wanted:
    """An input of the training step: its name, element type and shape.

    `name`, `dtype` and `shape` are those of the file; `is_target` says whether only the loss reads it.
    """

    def __init__(self, name: str, dtype: np.dtype[Any], shape: Shape | None, *, is_target: bool) -> None:
        self.name, self.dtype, self.shape, self.is_target = name, dtype, shape, is_target

    def __str__(self) -> str:
        return f"{self.name} {type_text(self.dtype, self.shape)}"


class Images:
    """The images of a folder as rows, decoded when they are asked for.

    Args:
        paths: of the images.
        size: channels, height, width of the model's input; images are scaled to it.
        mean, std: what is taken away from the values 0 to 1 of each channel, and what they are divided by.
    """

    def __init__(
        self, paths: Sequence[Path], size: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self._paths, self._size = list(paths), size
        self._mean, self._std = (np.array(v, np.float32).reshape(-1, 1, 1) for v in (mean, std))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Array:
        from PIL import Image

        channels, height, width = self._size
        try:
            with Image.open(self._paths[index]) as file:
                image = file.convert("L" if channels == 1 else "RGB").resize((width, height))
        except OSError as error:
            raise UsageError(f"{self._paths[index]}: it must be an image, got: {error}") from error
        pixels = np.asarray(image, np.float32) / 255
        planes = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
        return ((planes - self._mean) / self._std).astype(np.float32)

    def part(self, rows: Array) -> Images:
        """Return some of the images."""
        return Images(
            [self._paths[int(row)] for row in rows], self._size, self._mean.ravel().tolist(), self._std.ravel().tolist()
        )


Source = Array | Images


def read(
    data: Sequence[str],
    wanted: Sequence[Wanted],
    *,
    columns: Sequence[str] = (),
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
) -> dict[str, Source]:
    """Return a source for every input of the training step.

    Raises:
        UsageError: an input has no data, or data do not fit.
    """
    if len(data) == 1 and Path(data[0]).is_dir():
        found: dict[str, Source] = _folder(Path(data[0]), wanted, mean, std)
    elif len(data) == 1 and data[0].endswith(".csv"):
        found = dict(_table(Path(data[0]), wanted, _column_names(columns)))
    else:
        arrays = read_arrays(data, [w.name for w in wanted])
        for w in wanted:
            if w.name in arrays and arrays[w.name].dtype.kind in "iu" and w.dtype.kind in "iuf":
                arrays[w.name] = arrays[w.name].astype(w.dtype)  # pixels of 0 to 255, or classes of another width
        found = dict(fitted([_spec(w) for w in wanted], arrays))
    missing = [str(w) for w in wanted if w.name not in found]
    if missing:
        raise UsageError(f"every input must have data, got none for {', '.join(missing)}.")
    counts = {name: len(source) for name, source in found.items()}
    if len(set(counts.values())) != 1:
        raise UsageError(
            f"all inputs must have as many rows, got {', '.join(f'{n} of {k}' for k, n in counts.items())}."
        )
    return found


def split(sources: Mapping[str, Source], share: float, seed: int) -> tuple[dict[str, Source], dict[str, Source]]:
    """Return the data to train on and a share of the rows, drawn at random, to validate on."""
    n_rows = len(next(iter(sources.values())))
    order = np.random.default_rng(seed).permutation(n_rows)
    n_held = round(n_rows * share)
    if not 0 < n_held < n_rows:
        raise UsageError(f"--validation must leave rows on both sides, got {share} of {n_rows} rows.")
    held, kept = np.sort(order[:n_held]), np.sort(order[n_held:])

    def part(rows: Array) -> dict[str, Source]:
        return {name: s.part(rows) if isinstance(s, Images) else s[rows] for name, s in sources.items()}

    return part(kept), part(held)


def _spec(wanted: Wanted) -> Any:
    from renom_onnx.runtime.feed import FeedSpec

    return FeedSpec(wanted.name, wanted.dtype, wanted.shape)


def _folder(folder: Path, wanted: Sequence[Wanted], mean: Sequence[float], std: Sequence[float]) -> dict[str, Source]:
    """Return images and the numbers of their classes, which are the names of the folders in order."""
    try:
        import PIL  # noqa: F401
    except ImportError as e:
        raise UsageError("a folder of images needs Pillow. Install it: pip install pillow") from e
    image, target = _image_and_target(wanted)
    assert image.shape is not None
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    files = [(p, k) for k, name in enumerate(classes) for p in sorted((folder / name).rglob("*"))]
    files = [(path, k) for path, k in files if path.suffix.lower() in IMAGES]
    if not files:
        raise UsageError(f"{folder}: it must hold a folder of images for each class, got none.")
    channels, height, width = image.shape[1:]
    for name, values in (("--mean", mean), ("--std", std)):
        if len(values) not in (1, channels):
            raise UsageError(f"{name} must be one number, or one for each of {channels} channels, got {len(values)}.")
    listed = ", ".join(f"{k} {name}" for k, name in enumerate(classes))
    print(f"{len(files)} images of {len(classes)} classes: {listed}", file=sys.stderr)
    images = Images([path for path, _ in files], (int(channels), int(height), int(width)), mean, std)
    return {image.name: images, target.name: np.array([k for _, k in files], np.int64)}


def _image_and_target(wanted: Sequence[Wanted]) -> tuple[Wanted, Wanted]:
    images = [w for w in wanted if not w.is_target]
    targets = [w for w in wanted if w.is_target]
    got = ", ".join(map(str, wanted))
    if len(images) != 1 or len(targets) != 1 or targets[0].dtype.kind not in "iu":
        raise UsageError(f"a folder of images fits a model of one image and class indices, got {got}.")
    shape = images[0].shape
    if shape is None or len(shape) != 4 or shape[1] not in (1, 3) or not all(isinstance(d, int) for d in shape[1:]):
        raise UsageError(f"the image input must be (N, 1 or 3, height, width) with known sizes, got {images[0]}.")
    return images[0], targets[0]


def _column_names(columns: Sequence[str]) -> dict[str, list[str]]:
    found = {}
    for text in columns:
        name, _, listed = text.partition("=")
        if not name or not listed:
            raise UsageError(f"--columns must be INPUT=COLUMN,COLUMN, got {text!r}.")
        found[name] = listed.split(",")
    return found


def _table(path: Path, wanted: Sequence[Wanted], columns: Mapping[str, list[str]]) -> dict[str, Array]:
    """Return the columns of a table as arrays of the inputs."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    header = list(rows[0]) if rows else []
    if not rows:
        raise UsageError(f"{path}: a table must have a line of names and rows, got none.")
    found = {}
    for w in wanted:
        names = columns.get(w.name, [w.name] if w.name in header else [])
        unknown = [name for name in names if name not in header]
        if unknown or not names:
            got = f"no column {unknown[0]!r}" if unknown else f"none for {w}"
            raise UsageError(
                f"{path}: --columns must name columns for each input, got {got}. There are: {', '.join(header)}."
            )
        cells = [[row[name] for name in names] for row in rows]
        found[w.name] = _numbers(path, w, cells)
    return found


def _numbers(path: Path, wanted: Wanted, cells: list[list[str]]) -> Array:
    try:
        array = np.array(cells, dtype=np.float64)
    except ValueError as error:
        if not wanted.is_target or wanted.dtype.kind not in "iu":
            raise UsageError(f"{path}: {wanted} must be numbers, got: {error}") from error
        names = sorted({row[0] for row in cells})
        listed = ", ".join(f"{k} {name}" for k, name in enumerate(names))
        print(f"{wanted.name}: {len(names)} classes: {listed}", file=sys.stderr)
        array = np.array([[names.index(row[0])] for row in cells], np.float64)
    sizes = [] if wanted.shape is None else [d for d in wanted.shape[1:] if isinstance(d, int)]
    if wanted.shape is not None and len(sizes) == len(wanted.shape) - 1:
        if array.size != len(array) * int(np.prod(sizes, dtype=int)):
            raise UsageError(
                f"{path}: {wanted} must have {int(np.prod(sizes, dtype=int))} columns, got {array.shape[1]}."
            )
        array = array.reshape(len(array), *sizes)
    return array.astype(wanted.dtype)
