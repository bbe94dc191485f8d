"""The benchmarks measure what they say: every peer trains the same model, and the table has the figures of the run."""

import dataclasses
import json

import numpy as np
import onnx
import pytest

from benchmarks import checkpoint, eager, growth, step_profile
from benchmarks.__main__ import _leave_out, main
from benchmarks.contenders import ours, torch_steps
from benchmarks.contenders.weights import groups
from benchmarks.process import ContenderError, Times
from benchmarks.report import draw, ratios
from benchmarks.workloads import WORKLOADS
from benchmarks.workloads.image import images

SMALL = ("mlp-small-adam", "lenet", "mobilenet", "lstm", "decoder")


@pytest.mark.parametrize("name", SMALL)
def test_pytorch_is_given_the_same_model(name, tmp_path):
    torch = pytest.importorskip("torch", reason="the oracle is installed on Linux only")
    threads = torch.get_num_threads()
    workload = WORKLOADS[name]
    workload.write(tmp_path)
    own, other = ours.session(workload, tmp_path, 1), torch_steps.torch(workload, tmp_path, 1)
    try:
        for batch in workload.batches()[:2]:
            assert own(*batch) == pytest.approx(other(*batch), rel=1e-5)
    finally:
        torch.set_num_threads(threads)


def test_pytorch_is_given_the_same_resnet50(tmp_path):
    """On smaller images, which the layers do not ask about."""
    torch = pytest.importorskip("torch", reason="the oracle is installed on Linux only")
    threads = torch.get_num_threads()
    workload = dataclasses.replace(WORKLOADS["resnet50"], batch_size=4, data=images(3, 64))
    workload.write(tmp_path)
    try:
        x, y = workload.batches()[0]
        own = ours.session(workload, tmp_path, 1)(x, y)
        assert own == pytest.approx(torch_steps.torch(workload, tmp_path, 1)(x, y), rel=1e-4)
    finally:
        torch.set_num_threads(threads)


def test_bfloat16_is_for_gpus(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["mlp-small-sgd", "--precision", "bfloat16"])
    assert "precision must be float32 on the CPU, got bfloat16." in capsys.readouterr().err
    WORKLOADS["mlp-small-sgd"].write(tmp_path, "bfloat16")
    model = onnx.load(tmp_path / "mlp-small-sgd.train.onnx")
    assert {tensor.data_type for tensor in model.graph.initializer} == {onnx.TensorProto.FLOAT}  # the weights stay
    casts = {a.i for node in model.graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to"}
    assert onnx.TensorProto.BFLOAT16 in casts


def test_weights_of_an_attention_are_layers_of_their_own():
    names = ["a.w_q", "a.b_q", "a.w_k", "a.b_k", "b.w"]
    assert groups(dict.fromkeys(names, 0)) == [{"w": 0, "b": 0}, {"w": 0, "b": 0}, {"w": 0}]


@pytest.mark.slow  # four processes that import onnxruntime or PyTorch
def test_a_run_prints_and_writes_what_it_measured(tmp_path, capsys):
    peers = ["session", "bare", "executor", "torch"]
    assert main(["mlp-small-sgd", "--rounds", "2", "--steps", "10", "--peers", *peers, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "benchmark.json").read_text())["results"]["mlp-small-sgd"]
    assert set(found) == set(peers)
    assert all(times["median_s"] > 0 and times["memory_mb"] > 10 for times in found.values())
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| mlp-small-sgd"))
    assert f"| {found['torch']['median_s'] / found['session']['median_s']:.2f} |" in row
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "benchmark.md").read_text()
    assert row in page
    assert all(f"{found[peer]['median_s'] * 1e3:.2f} [{found[peer]['p10_s'] * 1e3:.2f}" in page for peer in peers)


@pytest.mark.slow  # three processes
def test_inference_is_compared_and_measured(tmp_path, capsys):
    assert main(["mlp-small-sgd", "--inference", "--rounds", "2", "--steps", "10", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "benchmark.json").read_text())["results"]["mlp-small-sgd"]
    assert set(found) == {"infer-session", "infer-bare", "infer-torch"}
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    assert "# Inference" in (tmp_path / "benchmark.md").read_text()


class Answers:
    """A contender's process with losses, or without."""

    def __init__(self, losses):
        self.losses, self.is_closed = losses, False

    def ask(self, command):
        if self.losses is None:
            raise ContenderError("it ended: no compiler")
        return self.losses

    def close(self):
        self.is_closed = True


def test_who_trains_another_model_is_not_timed():
    processes = {
        "session": Answers([2.0, 1.0, 0.6]),
        "executor": Answers([1.2]),  # the mean of an epoch
        "torch": Answers([2.0, 1.000009, 0.6]),
        "jax": Answers([2.0, 1.00002, 0.6]),
        "torch-compile": Answers(None),
    }
    kept = dict(processes)
    assert _leave_out(processes, 1e-5) == {
        "jax": "it does not train the same model, its losses are [2.0, 1.00002, 0.6], not [2.0, 1.0, 0.6]",
        "torch-compile": "it ended: no compiler",
    }
    assert list(processes) == ["session", "executor", "torch"]
    assert [name for name, process in kept.items() if process.is_closed] == ["jax", "torch-compile"]


def test_bars_reach_from_percentile_to_percentile_over_our_median(tmp_path):
    ours = Times([1.0, 2.0, 3.0, 4.0, 5.0], memory_mb=100)
    peer = Times([10.0, 20.0, 30.0, 40.0, 50.0], memory_mb=250)
    assert ratios(peer, ours, "time") == (peer.p10 / 3, 10, peer.p90 / 3)
    assert ratios(peer, ours, "memory") == (2.5, 2.5, 2.5)
    facts = {"machine": "one", "threads": 1, "device": "cpu", "date": "today"}
    draw(tmp_path / "bars.png", facts, {"lenet": {"session": ours, "torch": peer}}, is_inference=False)
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


def test_growth_is_fitted_and_drawn(tmp_path):
    sizes = [float(size) for size, _ in growth.LADDERS["depth"]]
    costs = {"step": [3.0 * size for size in sizes], "open": [size**2 for size in sizes]}
    assert [growth.exponent(sizes, seconds) for seconds in costs.values()] == pytest.approx([1, 2])
    growth.draw(tmp_path / "growth.png", {"depth": costs}, "one machine")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_growth_measures_every_part():
    found = growth.measure(layers=1, width=4, rows=2)
    assert list(found) == list(growth.PARTS) and all(seconds > 0 for seconds in found.values())


@pytest.mark.parametrize("name", ["mlp-small-sgd", "mobilenet"])
def test_executor_is_given_the_first_batches_of_all_others(name, tmp_path):
    workload = WORKLOADS[name]
    workload.write(tmp_path)
    step = ours.session(workload, tmp_path, 1)
    losses = [step(*batch) for batch in workload.batches()[: workload.n_losses]]
    assert ours.Executor(workload, 1).losses() == pytest.approx([sum(losses) / len(losses)], rel=1e-5)


def test_eager_steps_executors_and_trees_are_measured():
    for part in (eager.eager, eager.executor):
        seconds = part(2, 1)
        assert len(seconds) == eager.N_BATCHES and min(seconds) > 0
    assert len(eager.build(10, 2)) == 2


@pytest.mark.parametrize("network", checkpoint.NETWORKS)
def test_blocks_of_a_checkpoint_are_equal_and_take_their_batch(network):
    blocks, shape = checkpoint.NETWORKS[network](2)
    x = np.zeros((1, *shape[1:]), np.float32)
    for block in blocks:
        x = block(x)
    assert x.shape == ("N", *shape[1:])


def test_a_profile_has_the_nodes_of_the_step_and_no_probe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nodes = step_profile.profile(WORKLOADS["mlp-small-adam"], threads=1, steps=3)
    operators = {op_type for _, op_type, _ in nodes}
    assert {"Gemm", "Sqrt", "Div"} <= operators and "ReorderInput" not in operators
    text = step_profile.table("small", nodes, floor_s=1e-3, most=2)
    assert text.startswith("small: ") and "matrix product 1.00 ms." in text and text.count("\n| ") == 3 + 1
    assert not list(tmp_path.iterdir())
