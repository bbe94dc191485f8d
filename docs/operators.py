"""``python -m docs.operators`` writes docs/operators.md: every operator of ONNX and what is known of its gradient.

The table comes from the gradient check itself, which is run here; nothing in it is typed.
"""

from __future__ import annotations

import collections
import sys
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

from renom_onnx.gradients import find
from renom_onnx.graph.schema import DEFAULT_OPSET, has_body, has_operator, operator, operator_names
from tests.gradients.cases import NEWEST_OPSET

TARGET = Path(__file__).with_name("operators.md")


class Proofs:
    """A pytest plugin that counts the cases that proved an operator."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.failed = 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a test."""
        if report.failed:
            self.failed += 1
        if report.when == "call" and report.passed:
            self.counts.update(value for key, value in report.user_properties if key == "proved")


def status(name: str, proofs: Proofs) -> str:
    """Return what is known of an operator's gradient."""
    entry = find(name)
    if entry is not None and entry.rule is None:
        return f"{'refused' if entry.is_refused else 'none'}: it is {entry.reason}"
    if entry is None and not has_body(name, NEWEST_OPSET):
        return "**missing**"
    kind = "rule" if entry is not None else "through its body"
    count = proofs.counts[name]
    return f"{kind}, proved by {count} case{'s' if count != 1 else ''}" if count else f"{kind}, **no case proves it**"


def main() -> int:
    """Run the check and write the page."""
    proofs = Proofs()
    pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", "-n", "2", "tests/gradients"], plugins=[proofs])
    if proofs.failed:
        print(f"operators: {proofs.failed} checks failed; {TARGET} was left as it is.", file=sys.stderr)
        return 1
    rows = [
        f"| [{name}](https://onnx.ai/onnx/operators/onnx__{name}.html) "
        f"| {operator(name, NEWEST_OPSET).since_version} "
        f"| {'yes' if has_operator(name, DEFAULT_OPSET) else 'no'} | {status(name, proofs)} |"
        for name in operator_names(NEWEST_OPSET)
    ]
    text = "\n".join(
        [
            "# Operators",
            "",
            f"Written by `make operators` with onnx {onnx.__version__} (opset {NEWEST_OPSET}), onnxruntime "
            f"{onnxruntime.__version__} on the CPU, from the gradient checks: a case is a sample input whose gradient, "
            "in float32 on onnxruntime, agrees with float64 differences of `onnx.reference` or with PyTorch.",
            "",
            "| operator | since opset | in opset 18 | gradient |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )
    TARGET.write_text(text)
    print(f"Wrote {TARGET}: {len(proofs.counts)} operators proved.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
