"""LoRA: only the adapters train; merged, or as onnxruntime's adapter beside the base model, they compute the same."""

import re

import numpy as np
import onnx
import onnxruntime
import pytest

import renom_onnx as rm
from renom_onnx.converters import adapter_base, merge_lora, to_onnx

g = rm.graph
TEXT = """<ir_version: 10, opset_import: ["": 18]> f (float[N,T,3] x) => (float[N,T,2] y)
    <float[3,4] u = {1,0,0,1,0,1,0,1,0,0,1,1}, float[2,4] v = {1,2,3,4,-1,0,1,0}>
    { h = MatMul(x, u) t = Transpose<perm = [1, 0]>(v) y = MatMul(h, t) }"""


def model() -> onnx.ModelProto:
    rm.set_seed(0)
    return to_onnx(g.Sequential([g.Dense(6), g.Tanh(), g.Dense(3)]), inputs={"x": ("N", 4)})


def feeds(rows: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=(rows, 4)).astype(np.float32), "labels": rng.integers(0, 3, rows)}


def run(proto: onnx.ModelProto, x: np.ndarray, options: onnxruntime.RunOptions | None = None) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x}, options)[0]


def trained(target: str = "*") -> onnx.ModelProto:
    adapted = rm.lora(model(), rank=2, alpha=4, target=target)
    file = rm.make_trainable(adapted, loss="softmax_cross_entropy", optimizer=g.Sgd(0.5))
    session = rm.runtime.TrainingSession(file, device="cpu")
    losses = [float(session.step(feeds())) for _ in range(10)]
    assert losses[-1] < losses[0]
    return session.to_model()


def test_a_model_with_fresh_adapters_computes_what_it_did():
    x = feeds()["x"]
    np.testing.assert_array_equal(run(rm.lora(model()).to_proto(), x), run(model(), x))


def test_only_adapters_train():
    before = {t.name: t for t in model().graph.initializer}
    after = {t.name: t for t in trained().graph.initializer}
    assert all(after[name] == tensor for name, tensor in before.items())
    changed = {name.split(".", 1)[1] for name in after.keys() - before.keys()}
    assert changed == {"w.lora_A", "w.lora_B", "w.lora_scale"}


def test_merged_weights_compute_what_weights_and_adapters_do():
    file, x = trained(), feeds()["x"]
    merged = merge_lora(file)
    assert [n.op_type for n in merged.graph.node] == [n.op_type for n in model().graph.node]
    assert {t.name for t in merged.graph.initializer} == {t.name for t in model().graph.initializer}
    assert not merged.training_info
    with_adapters = run(file, x)
    np.testing.assert_allclose(run(merged, x), with_adapters, rtol=1e-4, atol=1e-6)
    assert np.abs(with_adapters - run(model(), x)).max() > 1e-2


def test_a_stock_onnxruntime_runs_the_base_with_and_without_the_adapter(tmp_path):
    file, x = trained(), feeds()["x"]
    base = adapter_base(file)
    np.testing.assert_allclose(run(base, x), run(model(), x), rtol=1e-5, atol=1e-6)
    rm.runtime.save_adapter(file, tmp_path / "tuned.onnx_adapter")
    adapter = onnxruntime.LoraAdapter()
    adapter.Load(str(tmp_path / "tuned.onnx_adapter"))
    options = onnxruntime.RunOptions()
    options.add_active_adapter(adapter)
    np.testing.assert_allclose(run(base, x, options), run(file, x), rtol=1e-5, atol=1e-6)


def test_a_pattern_chooses_the_matrices():
    adapted = rm.lora(model(), target="dense2.*")
    assert [n for n, p in adapted.named_parameters() if p.trainable] == ["dense2.w.lora_A", "dense2.w.lora_B"]


def test_matrices_behind_a_transpose_have_adapters_too():
    plain = onnx.parser.parse_model(TEXT)
    adapted = rm.lora(plain, rank=1)
    shapes = {name: p.array.shape for name, p in adapted.named_parameters() if p.trainable}
    assert shapes == {"u.lora_A": (3, 1), "u.lora_B": (1, 4), "v.lora_A": (4, 1), "v.lora_B": (1, 2)}
    for name, parameter in adapted.named_parameters():
        if name.endswith("lora_B"):
            parameter.array = np.ones_like(parameter.array)
    x = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(run(merge_lora(adapted), x), run(adapted.to_proto(), x), rtol=1e-5, atol=1e-5)
    assert [n.op_type for n in merge_lora(adapted).graph.node] == [n.op_type for n in plain.graph.node]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rm.lora(model(), rank=0), "lora: rank must be 1 or more, got 0."),
        (
            lambda: rm.lora(model(), target="attention.*"),
            "lora: target must match matrices that a MatMul or Gemm multiplies by, got 'attention.*'. There are: "
            "dense1.w, dense2.w.",
        ),
        (
            lambda: merge_lora(model()),
            "merge_lora: the model must have adapters, got none. Add them with renom_onnx.lora.",
        ),
        (
            lambda: adapter_base(model()),
            "adapter_base: the model must have adapters, got none. Add them with renom_onnx.lora.",
        ),
        (
            lambda: rm.runtime.save_adapter(model(), "nowhere.onnx_adapter"),
            "adapter_arrays: the model must have adapters, got none. Add them with renom_onnx.lora.",
        ),
    ],
    ids=["rank", "target", "merge", "base", "save"],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(rm.ConversionError, match=f"^{re.escape(message)}$"):
        call()
