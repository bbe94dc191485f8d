"""ONNX's Backend interface: this library as ONNX's conformance suite, and programs written for any backend, see it.

    import renom_onnx.backend as backend
    rep = backend.prepare(model, "CPU")
    outputs = rep.run([x])

A model goes all the way: read as elements, written again, and run by a stock onnxruntime. Training operators of the
specification (Gradient, Adam, Adagrad, Momentum), which onnxruntime lacks, run too.

Source: https://onnx.ai/onnx/api/backend.html.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from renom_onnx.converters.backend_interface import (
    Backend as Interface,
    BackendRep as InterfaceRep,
    input_names,
    model_of_node,
    namedtupledict,
    through_elements,
)
from renom_onnx.converters.tree import as_bytes
from renom_onnx.errors import DeviceError, ShapeError
from renom_onnx.runtime.device import parse_device
from renom_onnx.runtime.failure import run_error
from renom_onnx.runtime.opening import open_session

__all__ = ["Backend", "BackendRep", "prepare", "run_model", "run_node", "supports_device"]


class BackendRep(InterfaceRep):
    """A model that is ready to run."""

    def __init__(self, model: Any, device: str) -> None:
        self._inputs = input_names(model)
        self._outputs = [output.name for output in model.graph.output]
        self._session = open_session(as_bytes(model), parse_device(_device(device)))

    def run(self, inputs: Any, **kwargs: Any) -> Any:
        """Return the outputs as a named tuple.

        Args:
            inputs: arrays in the order of the model's inputs, those with a default may be left out; or by name.
            kwargs: none is used.

        Raises:
            ShapeError: more arrays are given than the model has inputs.
            RunError: onnxruntime stopped.
        """
        feeds = dict(inputs) if isinstance(inputs, Mapping) else self._named(inputs)
        try:
            results = self._session.run(self._outputs, feeds)
        except Exception as e:
            raise run_error("backend", e) from e
        return namedtupledict("Outputs", self._outputs)(*results)

    def _named(self, inputs: Any) -> dict[str, Any]:
        given = list(inputs) if isinstance(inputs, Sequence) else [inputs]
        names = self._inputs if len(given) <= len(self._inputs) else [i.name for i in self._session.get_inputs()]
        if len(given) > len(names):
            raise ShapeError(f"backend: a run must be given at most {len(names)} inputs, got {len(given)}.")
        return dict(zip(names, given, strict=False))


class Backend(Interface):
    """The interface of `onnx.backend.base.Backend`.

    Example:
        >>> import numpy as np, onnx
        >>> from renom_onnx.backend import Backend
        >>> text = '<ir_version: 10, opset_import: ["": 18]> f (float[N] x) => (float[N] y) { y = Neg(x) }'
        >>> Backend.run_model(onnx.parser.parse_model(text), [np.ones(2, np.float32)])
        Outputs(y=array([-1., -1.], dtype=float32))
    """

    @classmethod
    def is_compatible(cls, model: Any, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether the device is there; what a model needs is told by `prepare`."""
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> BackendRep:
        """Return a model that is ready to run.

        Args:
            model: a ModelProto, path or bytes.
            device: "CPU", "CUDA" or "CUDA:1".
            kwargs: none is used.

        Raises:
            ConversionError: the model cannot be read.
            RunError: onnxruntime refused it.
            DeviceError: the device is not there.
        """
        return BackendRep(through_elements(model), device)

    @classmethod
    def run_node(
        cls,
        node: Any,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Return the outputs of one node as a named tuple.

        Args:
            node: a NodeProto.
            inputs: an array for each of its inputs.
            device: "CPU", "CUDA" or "CUDA:1".
            outputs_info: not needed: types are inferred.
            kwargs: ``opset_version``, default 18.
        """
        arrays = [np.asarray(x) for x in (inputs.values() if isinstance(inputs, Mapping) else inputs)]
        return cls.prepare(model_of_node(node, arrays, kwargs.get("opset_version")), device).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether a session can be opened on the device."""
        try:
            parse_device(_device(device))
        except DeviceError:
            return False
        return True


def _device(name: str) -> str:
    """Return our name of ONNX's name of a device."""
    return name.lower().removesuffix(":0") if name.lower().startswith("cpu") else name.lower()


prepare = Backend.prepare
run_model = Backend.run_model
run_node = Backend.run_node
supports_device = Backend.supports_device
