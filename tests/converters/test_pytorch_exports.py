"""Models that PyTorch exports, fine-tuned from the file alone: loss and weights follow PyTorch's own training."""

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import renom_onnx as rm

torch = pytest.importorskip("torch", reason="the oracle is installed on Linux only")
pytest.importorskip("onnxscript", reason="PyTorch's exporter needs it")
nn = torch.nn

STEPS = 10
RATE = 0.05


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.norm1(self.conv1(x)))
        return self.head(torch.relu(self.norm2(self.conv2(x))).mean((2, 3)))


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 8, batch_first=True, bidirectional=True), nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        return self.head(self.lstm(x)[0].mean(1))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, activation="gelu")
        self.head = nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        return self.head(self.encoder(x).mean(1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.bottom = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up, self.join, self.out = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Any) -> Any:
        down = torch.relu(self.down(x))
        bottom = torch.relu(self.bottom(nn.functional.max_pool2d(down, 2)))
        join = torch.relu(self.join(torch.cat([down, self.up(bottom)], 1)))
        return self.out(nn.functional.interpolate(join, scale_factor=2.0, mode="bilinear"))


CASES: dict[str, tuple[type, tuple[int, ...], tuple[int, ...]]] = {  # model, sizes of a sample, sizes of its labels
    "cnn": (Cnn, (1, 8, 8), ()),
    "lstm": (Lstm, (7, 6), ()),
    "transformer": (Transformer, (7, 16), ()),
    "u-net": (UNet, (1, 8, 8), (16, 16)),
}


def export(model: Any, x: Any, *, is_optimized: bool = True) -> onnx.ModelProto:
    """Return what PyTorch's exporter writes, with a symbol for the batch size."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model.eval(),
                (x,),
                input_names=["x"],
                output_names=["y"],
                dynamic_shapes=({0: torch.export.Dim("N")},),
                dynamo=True,
                optimize=is_optimized,
                verbose=False,
            )
            proto: onnx.ModelProto = program.model_proto
    finally:
        logging.disable(logging.NOTSET)
    return proto


def batches(case: str) -> list[tuple[np.ndarray, np.ndarray]]:
    _, sizes, labels = CASES[case]
    rng = np.random.default_rng(0)
    n_classes = 3 if labels else 5
    return [
        (rng.normal(size=(6, *sizes)).astype(np.float32), rng.integers(0, n_classes, (6, *labels)))
        for _ in range(STEPS)
    ]


def trained_by_pytorch(model: Any, optimizer: Any, case: str) -> list[float]:
    losses = []
    for x, labels in batches(case):
        loss = nn.functional.cross_entropy(model(torch.tensor(x)), torch.tensor(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def trained_here(file: onnx.ModelProto, case: str) -> tuple[list[float], rm.runtime.TrainingSession]:
    session = rm.runtime.TrainingSession(file, device="cpu")
    return [float(session.step({"x": x, "labels": labels})) for x, labels in batches(case)], session


def check_weights(session: rm.runtime.TrainingSession, model: Any) -> int:
    """Compare the weights that have the same name and shape in both; return how many these are."""
    after = {t.name: numpy_helper.to_array(t) for t in session.to_model().graph.initializer}
    same = {n: w for n, w in model.state_dict().items() if n in after and after[n].shape == tuple(w.shape)}
    for name, weight in same.items():
        np.testing.assert_allclose(after[name], weight.numpy(), rtol=1e-3, atol=1e-4, err_msg=name)
    return len(same)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("case", ["lstm", "transformer", "u-net"])
def test_training_the_file_follows_pytorch(case: str, optimizer: str):
    torch.manual_seed(0)
    make, sizes, _ = CASES[case]
    model = make()
    with torch.no_grad():  # the exporter writes equal arrays, such as two biases of zeros, as one that trains as one
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    file = export(model, torch.randn(6, *sizes))
    makers: dict[str, tuple[Callable[..., Any], Any]] = {
        "sgd": (torch.optim.SGD, rm.graph.Sgd(RATE)),
        # The gradient of a key's bias is 0 but for rounding, which Adam would blow up with its usual epsilon.
        "adam": (functools.partial(torch.optim.Adam, eps=1e-4), rm.graph.Adam(RATE / 10, epsilon=1e-4)),
    }
    of_torch, ours = makers[optimizer]
    plan = rm.converters.FineTuning(file, loss="softmax_cross_entropy", optimizer=ours)
    losses, session = trained_here(plan.to_model(), case)
    model.train()
    expected = trained_by_pytorch(model, of_torch(model.parameters(), lr=ours.learning_rate), case)
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    assert check_weights(session, model) >= 2
    x, _ = batches(case)[0]
    with torch.no_grad():
        np.testing.assert_allclose(
            session.evaluate({"x": x})["y"], model.eval()(torch.tensor(x)).numpy(), rtol=1e-3, atol=1e-3
        )


def test_batch_statistics_train_as_in_pytorch():
    torch.manual_seed(0)
    model = Cnn()
    file = export(model, torch.randn(6, 1, 8, 8), is_optimized=False)
    assert "BatchNormalization" in {node.op_type for node in file.graph.node}
    loaded = rm.load(file)
    loaded.train_statistics(unbiased=True)
    trainable = rm.make_trainable(loaded, loss="softmax_cross_entropy", optimizer=rm.graph.Sgd(RATE))
    losses, session = trained_here(trainable, "cnn")
    expected = trained_by_pytorch(model.train(), torch.optim.SGD(model.parameters(), lr=RATE), "cnn")
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    assert check_weights(session, model) >= 10


def test_a_folded_batch_normalization_trains_as_pytorch_s_folded_model():
    torch.manual_seed(0)
    model = Cnn().eval()
    for norm in (model.norm1, model.norm2):
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    plan = rm.converters.FineTuning(
        export(model, torch.randn(6, 1, 8, 8)), loss="softmax_cross_entropy", optimizer=rm.graph.Sgd(RATE)
    )
    assert plan.notes == [
        "There is no BatchNormalization: if the original had any, the exporter folded it into the convolutions, where "
        "it stays."
    ]
    losses, session = trained_here(plan.to_model(), "cnn")
    for conv, norm in (("conv1", "norm1"), ("conv2", "norm2")):
        fused = nn.utils.fusion.fuse_conv_bn_eval(getattr(model, conv), getattr(model, norm))
        setattr(model, conv, fused)
        setattr(model, norm, nn.Identity())
    model.requires_grad_(True)
    expected = trained_by_pytorch(model, torch.optim.SGD(model.parameters(), lr=RATE), "cnn")
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    assert check_weights(session, model) == 6
