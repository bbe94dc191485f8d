"""PyTorch: eager as its tutorials write it, and with what it offers for speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.contenders.weights import groups, read
from benchmarks.workloads import RATES, Step, Workload


def load(t: Any, module: Any, path: Path) -> None:
    """Copy the weights of a file into a module whose leaves come in the same order."""
    leaves = [m for m in module.modules() if list(m.parameters(recurse=False))]
    for leaf, arrays in zip(leaves, groups(read(path)), strict=True):
        with t.no_grad():
            _copy(t, leaf, arrays)


def _copy(t: Any, leaf: Any, arrays: dict[str, Any]) -> None:
    n = t.nn
    if isinstance(leaf, n.LSTM):
        order = [0, 2, 3, 1]  # gates i, o, f, c here; i, f, g, o there

        def gates(array: Any) -> Any:
            return t.tensor(array.reshape(4, -1, *array.shape[1:])[order].reshape(array.shape))

        b, b_recurrent = arrays["b"][0].reshape(2, -1)
        leaf.weight_ih_l0.copy_(gates(arrays["w"][0]))
        leaf.weight_hh_l0.copy_(gates(arrays["wr"][0]))
        leaf.bias_ih_l0.copy_(gates(b))
        leaf.bias_hh_l0.copy_(gates(b_recurrent))
        return
    w = t.tensor(next(iter(arrays.values())).copy())
    leaf.weight.copy_(w.T if isinstance(leaf, n.Linear) else w)
    if getattr(leaf, "bias", None) is not None:
        leaf.bias.copy_(t.tensor(arrays["b"].reshape(-1).copy()))


def torch(
    workload: Workload,
    folder: Path,
    threads: int,
    device: str = "cpu",
    precision: str = "float32",
    *,
    fused: bool = False,
    channels_last: bool = False,
    compiled: bool = False,
    captured: bool = False,
) -> Step:
    """Zero the gradients, forward, backward, step; captured as a CUDA graph if that is asked for."""
    import torch as t

    t.set_num_threads(threads)
    t.backends.cuda.matmul.allow_tf32 = t.backends.cudnn.allow_tf32 = precision == "tf32"
    model = workload.torch(t)
    load(t, model, folder / f"{workload.name}.train.onnx")
    model.to(device)
    if channels_last:
        model.to(memory_format=t.channels_last)
    rate = RATES[workload.optimizer]
    make = t.optim.SGD if workload.optimizer == "sgd" else t.optim.Adam
    options = {"fused": True} if fused else {}
    if captured and workload.optimizer == "adam":
        options["capturable"] = True
    optimizer = make(model.parameters(), lr=rate, **options)
    criterion = t.nn.CrossEntropyLoss()
    forward = t.compile(model) if compiled else model

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        with t.autocast(device, t.bfloat16, enabled=precision == "bfloat16"):
            loss = criterion(forward(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def take(rows: Any, labels: Any) -> float:
        x, y = t.from_numpy(rows).to(device), t.from_numpy(labels).reshape(-1).to(device)
        if channels_last:
            x = x.to(memory_format=t.channels_last)
        return float(step(x, y))

    return _captured(t, step, model, optimizer, workload, device) if captured else take


def _captured(t: Any, step: Any, model: Any, optimizer: Any, workload: Workload, device: str) -> Step:
    """Return a step that replays a CUDA graph; written as PyTorch's manual has it, and not run yet on hardware.

    Capture wants some steps before it, whose effect is undone.
    """
    rows, labels = workload.batches()[0]
    x, y = t.from_numpy(rows).to(device), t.from_numpy(labels).reshape(-1).to(device)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stream = t.cuda.Stream()
    stream.wait_stream(t.cuda.current_stream())
    with t.cuda.stream(stream):
        for _ in range(3):
            step(x, y)
    t.cuda.current_stream().wait_stream(stream)
    graph = t.cuda.CUDAGraph()
    with t.cuda.graph(graph):
        loss = step(x, y)
    with t.no_grad():
        model.load_state_dict(before)
        for state in optimizer.state.values():
            for value in state.values():
                if isinstance(value, t.Tensor):
                    value.zero_()

    def take(rows: Any, labels: Any) -> float:
        x.copy_(t.from_numpy(rows))
        y.copy_(t.from_numpy(labels).reshape(-1))
        graph.replay()
        return float(loss)

    return take


def infer(workload: Workload, folder: Path, threads: int, device: str = "cpu") -> Step:
    """The module in eval mode, without gradients."""
    import torch as t

    t.set_num_threads(threads)
    model = workload.torch(t)
    load(t, model, folder / f"{workload.name}.train.onnx")
    model.to(device).eval()

    def take(rows: Any, labels: Any) -> float:
        with t.inference_mode():
            return model(t.from_numpy(rows).to(device)).cpu().numpy()

    return take


def flops(workload: Workload) -> int:
    """Return the floating-point operations of a step's products and convolutions, forward and backward.

    PyTorch counts them, but for recurrent layers, of which it knows nothing: there it is three times the forward pass.
    """
    import torch as t
    from torch.utils.flop_counter import FlopCounterMode

    import renom_onnx as rm

    model = workload.torch(t)
    x, y = workload.batches()[0]
    with FlopCounterMode(display=False) as counter:
        t.nn.functional.cross_entropy(model(t.from_numpy(x)), t.from_numpy(y).reshape(-1)).backward()
    forward = 2 * rm.converters.summarize(workload.elements()[1], batch_size=workload.batch_size).macs
    counted = int(counter.get_total_flops())
    return counted if counted > forward else 3 * forward
