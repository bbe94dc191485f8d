"""The errors of renom_onnx.

    RenomError
    ├── ShapeError       (ValueError)           sizes that do not fit
    ├── DTypeError       (TypeError)            element types that do not fit
    ├── GradientError    (NotImplementedError)  a gradient that does not exist
    ├── ConversionError  (ValueError)           a model that cannot be written or read
    ├── DeviceError      (RuntimeError)         a device or an onnxruntime that is not there
    └── RunError         (RuntimeError)         onnxruntime refused or stopped
        └── IndexRangeError  (IndexError)       a label or index that is out of range

Each is also a builtin exception, so ``except ValueError`` works too. Every message says the rule, what was got, what to
do and, where an element is concerned, the user's line that made it.
"""

from __future__ import annotations

__all__ = [
    "ConversionError",
    "DTypeError",
    "DeviceError",
    "GradientError",
    "IndexRangeError",
    "RenomError",
    "RunError",
    "ShapeError",
    "first_line",
]


class RenomError(Exception):
    """Base of all errors that renom_onnx raises on purpose."""


class ShapeError(RenomError, ValueError):
    """Sizes that do not fit the operator, layer or feed."""


class DTypeError(RenomError, TypeError):
    """Element types that do not fit the operator, layer or feed."""


class GradientError(RenomError, NotImplementedError):
    """A gradient was asked for where there is none."""


class ConversionError(RenomError, ValueError):
    """A model that cannot be written, read or differentiated as asked."""


class DeviceError(RenomError, RuntimeError):
    """A device, or an onnxruntime for it, that is not there."""


class RunError(RenomError, RuntimeError):
    """Onnxruntime refused a model or stopped while running it."""


class IndexRangeError(RunError, IndexError):
    """A label or an index that is out of range."""


def first_line(error: Exception) -> str:
    r"""Return the first line of another library's error without its full stop, to stand in a message of ours.

    A line that ends with a colon is nothing without those that follow.

    Example:
        >>> first_line(ValueError("no such file.\nAt line 3"))
        'no such file'
    """
    lines = [line.strip() for line in str(error).strip().split("\n")]
    text = " ".join(lines) if lines[0].endswith(":") else lines[0]
    return text.rstrip(".") or type(error).__name__
