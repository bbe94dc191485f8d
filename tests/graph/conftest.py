"""Every test starts from seed 0."""

import gc

import pytest

import renom_onnx as rm


@pytest.fixture(autouse=True)
def seed_0():
    rm.set_seed(0)


@pytest.fixture(autouse=True, scope="module")
def what_was_there_before_is_no_garbage():
    """Many of these tests collect garbage, print_tree does too: with PyTorch imported, 0.1 s each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
