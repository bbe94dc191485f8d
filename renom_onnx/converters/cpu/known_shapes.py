"""The sizes of a step's values, when those of its batch are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import overload

import onnx

from renom_onnx.converters.structure import inferred_types

Sizes = tuple[int, ...]


class KnownShapes:
    """The sizes of all float32 values of a step of which all are known.

    Inference runs once, when somebody asks for the first time. Who rewrites the step goes on asking the same object:
    a value that keeps its name keeps its sizes. What is written anew is known if it is told.

    Args:
        model: a step.
        sizes: of all symbols, as the session fixes them.

    Example:
        >>> text = "<ir_version: 8, opset_import: ['': 18]> f (float[N, 2] x) => (float[M, 2] y) { y = Abs (x) }"
        >>> shapes = KnownShapes(onnx.parser.parse_model(text.replace("'", '"')), {"N": 3})
        >>> shapes["x"], "z" in shapes
        ((3, 2), False)
    """

    def __init__(self, model: onnx.ModelProto, sizes: Mapping[str, int]) -> None:
        self._model = model
        self._symbols = sizes
        self._types: Mapping[str, onnx.TypeProto] | None = None
        self._found: dict[str, Sizes | None] = {}

    def copy(self) -> KnownShapes:
        """Return the same knowledge, to which another may be added."""
        other = KnownShapes(self._model, self._symbols)
        other._types, other._found = self._types, dict(self._found)
        return other

    def learn(self, model: onnx.ModelProto) -> None:
        """Know the values of the same step in another form, too, such as one whose calls are written out."""
        self._model, self._types = model, None
        self._found = {name: sizes for name, sizes in self._found.items() if sizes is not None}

    def tell(self, name: str, sizes: Sizes) -> None:
        """Know the sizes of a value that was written anew."""
        self._found[name] = sizes

    @overload
    def get(self, name: str) -> Sizes | None: ...

    @overload
    def get(self, name: str, default: Sizes) -> Sizes: ...

    def get(self, name: str, default: Sizes | None = None) -> Sizes | None:
        """Return the sizes of a value; the default where not all of them are known."""
        if name not in self._found:
            if self._types is None:
                self._types = inferred_types(self._model, self._fixed())
            self._found[name] = _sizes(self._types[name]) if name in self._types else None
        found = self._found[name]
        return default if found is None else found

    def __getitem__(self, name: str) -> Sizes:
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        return found

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def _fixed(self) -> onnx.GraphProto:
        """Return the graph with numbers in the place of symbols."""
        fixed = onnx.GraphProto()
        fixed.CopyFrom(self._model.graph)
        for value in [*fixed.input, *fixed.output, *fixed.value_info]:
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param in self._symbols:
                    dim.dim_value = self._symbols[dim.dim_param]
        return fixed


def _sizes(proto: onnx.TypeProto) -> Sizes | None:
    """Return the sizes of a float32 tensor of which all are known."""
    tensor = proto.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT or not tensor.HasField("shape"):
        return None
    dims = tensor.shape.dim
    return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") and d.dim_value >= 0 for d in dims) else None
