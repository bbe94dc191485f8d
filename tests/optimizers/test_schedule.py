"""Learning-rate schedules against torch.optim.lr_scheduler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from renom_onnx.graph import schedule

S = torch.optim.lr_scheduler

CASES: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "step": (schedule.Step(0.1, every_steps=7, factor=0.5), lambda o: S.StepLR(o, 7, 0.5)),
    "exponential": (schedule.Exponential(0.1, factor=0.9), lambda o: S.ExponentialLR(o, 0.9)),
    "cosine": (schedule.Cosine(0.1, n_steps=40, final=0.01), lambda o: S.CosineAnnealingLR(o, 40, 0.01)),
    "linear": (schedule.Linear(0.1, n_steps=20, final=0.05), lambda o: S.LinearLR(o, 1.0, 0.5, 20)),
    "one-cycle": (schedule.OneCycle(0.1, n_steps=41), lambda o: S.OneCycleLR(o, 0.1, 41, cycle_momentum=False)),
    "constant": (schedule.Constant(0.1), lambda o: S.ConstantLR(o, 1.0)),
}


@pytest.mark.parametrize("name", CASES)
def test_forty_steps_follow_pytorch(name: str):
    ours, make = CASES[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = make(optimizer)
    for step in range(40):
        assert ours(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-6), step
        optimizer.step()
        theirs.step()


def test_warm_up_rises_to_the_start_of_the_other_schedule():
    warm = schedule.WarmUp(schedule.Cosine(1.0, n_steps=10), warmup_steps=5)
    assert [warm(step) for step in range(6)] == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    assert warm(7) == schedule.Cosine(1.0, n_steps=10)(2)
