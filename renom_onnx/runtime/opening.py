"""Opening sessions of onnxruntime; one that is not where it was asked to be is an error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from renom_onnx.converters.signature import holds_bfloat16
from renom_onnx.errors import RunError, first_line
from renom_onnx.runtime.cuda import CudaOptions, cuda_works, plugin_devices, provider_names
from renom_onnx.runtime.device import Device, missing
from renom_onnx.runtime.ort import onnxruntime


def _refused(error: Exception, model: bytes, device: Device) -> RunError:
    text = first_line(error)
    kernel = re.search(r"implementation for (\w+)\(\d+\) node with name '([^']*)'", text)
    if kernel is None:
        return RunError(f"onnxruntime refused the model: {text}.")
    op_type, name = kernel.groups()
    if device.kind == "cpu" and holds_bfloat16(model):
        return RunError(
            f"{op_type}: bfloat16 must run on a GPU, got device \"cpu\" for the node with name '{name}'. "
            f'Use device="cuda", or autocast("float16").'
        )
    return RunError(
        f'{op_type}: device "{device}" must have a kernel for the operands\' types, got none for the node with name '
        f"'{name}'. Convert them to float32."
    )


def open_session(
    model: bytes,
    device: Device,
    *,
    dims: Mapping[str, int] | None = None,
    threads: int | None = None,
    spinning: bool = True,
    shared_threads: bool = False,
    cuda: CudaOptions | None = None,
    capture: bool = False,
    record: bool = False,
    plan: bool | None = None,
) -> Any:
    """Return an onnxruntime session that is on the device asked for.

    Args:
        model: its bytes.
        device: where it runs.
        dims: sizes of symbols, such as {"N": 64}: shapes are then known and folded away.
        threads: of the session; default: all cores.
        spinning: let idle workers spin for about 50 ms, which makes small steps faster and costs a core.
        shared_threads: use the process's pool instead of one for this session.
        cuda: options of the CUDA provider.
        capture: let CUDA capture its runs as graphs.
        record: let onnxruntime tell which provider has each node, for `nodes_elsewhere`.
        plan: let onnxruntime place all values in one buffer, from the second run on and beside those of the first,
            which stay; default: on devices other than a CPU.

    Raises:
        DeviceError: onnxruntime put the session on another provider.
        RunError: onnxruntime refused the model.
    """
    module = onnxruntime()
    options = module.SessionOptions()
    options.log_severity_level = 4
    options.enable_mem_pattern = device.kind != "cpu" if plan is None else plan
    for name, size in (dims or {}).items():
        options.add_free_dimension_override_by_name(name, size)
    if threads is not None:
        options.intra_op_num_threads = threads
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if shared_threads:
        options.use_per_session_threads = False
    if record:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = _providers(options, device, cuda or CudaOptions(), capture=capture)
    try:
        session = module.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except Exception as e:
        raise _refused(e, model, device) from e
    got = session.get_providers()[0]
    if got not in ({device.provider} if device.kind == "cpu" else provider_names()):
        raise missing(device, got)
    session.disable_fallback()
    return session


def _providers(options: Any, device: Device, cuda: CudaOptions, *, capture: bool) -> list[Any] | None:
    """Return the providers to ask for by name; None where the options have a plugin's device."""
    if device.kind == "cpu":
        return [device.provider]
    given = cuda.provider_options(device.index, capture=capture)
    cuda_works()  # loads the libraries
    plugged = plugin_devices()
    if not plugged:
        return [(device.provider, given)]
    options.add_provider_for_devices([plugged[device.index]], {k: v for k, v in given.items() if k != "device_id"})
    return None
