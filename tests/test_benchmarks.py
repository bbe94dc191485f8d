"""The benchmarks measure what they say: every peer trains the same model, and the table has the figures of the run."""

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.contenders import ours, torch_steps
from benchmarks.contenders.weights import groups
from benchmarks.workloads import WORKLOADS

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
