"""Text of a file: every string must be UTF-8, which protobuf leaves to who reads it."""

from __future__ import annotations

from typing import Any

import onnx

from renom_onnx.errors import ConversionError

_OF_TENSORS = {"name", "doc_string", "external_data", "metadata_props"}


def require_text(model: onnx.ModelProto) -> None:
    """Refuse a model with a string that is no UTF-8.

    Raises:
        ConversionError: it has one.
    """
    stack: list[Any] = [model]
    while stack:
        message = stack.pop()
        if isinstance(message, onnx.TensorProto):  # whose data are not looked at, nor copied
            fields = [(name, getattr(message, name)) for name in _OF_TENSORS]
        else:
            fields = [(field.name, value) for field, value in message.ListFields()]
        for name, value in fields:
            if isinstance(value, bytes):
                _refuse(message, name, value)
            elif not isinstance(value, str | int | float):
                stack += _messages(message, name, value)


def _messages(message: Any, name: str, value: Any) -> list[Any]:
    """Return the messages in a field, after a look at its texts."""
    if hasattr(value, "ListFields"):
        return [value]
    if not len(value) or isinstance(value[0], int | float):
        return []
    for item in value:
        if isinstance(item, bytes):
            _refuse(message, name, item)
    return [item for item in value if hasattr(item, "ListFields")]


def _refuse(message: Any, name: str, value: bytes) -> None:
    """Refuse bytes in a field that is not of bytes: text that could not be decoded."""
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.type == field.TYPE_STRING:
        raise ConversionError(f"load: text must be UTF-8, got {value[:32]!r} as {name} of a {message.DESCRIPTOR.name}.")
