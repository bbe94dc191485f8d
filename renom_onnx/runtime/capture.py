"""CUDA graphs: the kernels of a step, recorded once and started all at once from then on.

onnxruntime captures a run that has an id, and replays it when it sees the id again; memory and shapes must be the same,
so every binding has an id of its own. The run that captures executes the graph more than once: it may be a step that
reads one set of state and writes another, and must be no step that writes its state in place.

Source: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#using-cuda-graphs-preview, and
InferenceSession::Run in onnxruntime/core/session/inference_session.cc, which runs again until the graph is captured.
"""

from __future__ import annotations

import itertools
from typing import Any

from renom_onnx.runtime.ort import onnxruntime


class Capture:
    """The graph ids of one session."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)

    def run_options(self) -> Any:
        """Return the options of runs of one binding: an id that no other has."""
        return _options(next(self._ids))


def uncaptured() -> Any:
    """Return the options of a run that is not captured, in a session whose other runs are."""
    return _options(-1)


def _options(graph_id: int) -> Any:
    options = onnxruntime().RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    return options
