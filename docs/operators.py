"""``python -m docs.operators`` writes docs/operators.md: every operator of ONNX, and what is known of its gradient.

The page comes from the gradient checks, which are run here; nothing in it is typed. ``--provider cuda`` checks the
operators on a GPU and writes operators.cuda.json, from which the page takes its columns for CUDA.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

from renom_onnx.gradients import find
from renom_onnx.graph.schema import operator, operator_names
from tests.gradients.cases import NEWEST_OPSET
from tests.gradients.summary import of_node_tests
from tests.gradients.types import NAMES
from tests.gradients.versions import differentiable, versions

PAGE = Path(__file__).with_name("operators.md")
OTHER_PROVIDERS = {"CUDA": Path(__file__).with_name("operators.cuda.json")}
CHECKS = ["test_rules.py", "test_verdicts.py", "test_versions.py", "test_types.py", "test_quantization.py"]
MARKS = {"proved": "✓", "runs": "○", "no kernel": "–", "no type": ""}
LEGEND = """\
Written by `make operators` with onnx {onnx} (opset {opset}) and onnxruntime {onnxruntime}, from the gradient checks.

- **✓** the provider runs the operator in this float type, and its gradient is proved in it: it agrees with differences
  in float64, within a tolerance that fits the type;
- **○** the provider runs it, and there is nothing to differentiate;
- **–** the provider has no kernel for it; an empty field: ONNX has no operand of this type there.

*Versions* are those that a model of opset 13 or newer can mean, each proved with a model of its own; in parentheses
those that this onnxruntime does not run. *Cases* are sample inputs at which the gradient was proved: ONNX's own node
tests and some of the project's. {others}
"""


class Reports:
    """A pytest plugin that keeps what the checks tell."""

    def __init__(self) -> None:
        self.properties: list[tuple[str, Any]] = []
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keep what a check tells; one that was skipped tells what the provider does not run."""
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.when == "call" or report.skipped:
            self.properties += report.user_properties

    def found(self, key: str) -> list[Any]:
        """Return every value under a key."""
        return [value for name, value in self.properties if name == key]

    def types(self) -> dict[str, dict[str, str]]:
        """Return, for each operator, what the provider does in each float type."""
        types: dict[str, dict[str, str]] = {}
        for value in self.found("type"):
            name, kind, what = value.split(" ", 2)
            types.setdefault(name, {})[kind] = what
        return types


def check(*arguments: str) -> Reports:
    """Run checks with two workers."""
    reports = Reports()
    pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", "-n", "2", *arguments], plugins=[reports])
    if reports.failed:
        sys.exit(f"operators: {len(reports.failed)} checks failed, {reports.failed[0]} first; nothing was written.")
    return reports


def page(reports: Reports) -> str:
    """Return the page."""
    columns = {"CPU": reports.types()}
    for provider, path in OTHER_PROVIDERS.items():
        if path.exists():
            columns[provider] = json.loads(path.read_text())["types"]
    absent = [name for name in OTHER_PROVIDERS if name not in columns]
    others = f"{', '.join(absent)}: not run." if absent else ""
    legend = LEGEND.format(
        onnx=onnx.__version__, opset=NEWEST_OPSET, onnxruntime=onnxruntime.__version__, others=others
    )
    names = operator_names(NEWEST_OPSET)
    rows = [_row(name, columns, [_versions(name, reports), _cases(name, reports)]) for name in differentiable()]
    others_rows = [_row(name, columns, [_why(name)]) for name in names if name not in differentiable()]
    return "\n".join(
        [
            "# Operators",
            "",
            legend,
            "## With a gradient",
            "",
            *_table(columns, ["versions", "cases"], rows),
            "",
            "## Without a gradient",
            "",
            *_table(columns, ["why"], others_rows),
            "",
            "## ONNX's node tests",
            "",
            *_counts(reports),
            "",
        ]
    )


def _table(columns: dict[str, Any], more: Sequence[str], rows: Sequence[str]) -> list[str]:
    one = len(columns) == 1
    kinds = [kind.replace("float", "f") if one else f"{provider} {kind}" for provider in columns for kind in NAMES]
    heads = ["operator", "since", *kinds, *more]
    return [f"| {' | '.join(heads)} |", f"|---|---|{':-:|' * len(kinds)}{'---|' * len(more)}", *rows]


def _row(name: str, columns: dict[str, dict[str, dict[str, str]]], more: Sequence[str]) -> str:
    """Return one row: name, the opset of the newest version, a mark for each provider and type, and more."""
    marks = [MARKS[types.get(name, {}).get(kind, "no type")] for types in columns.values() for kind in NAMES]
    link = f"[{name}](https://onnx.ai/onnx/operators/onnx__{name}.html)"
    return f"| {' | '.join([link, str(operator(name, NEWEST_OPSET).since_version), *marks, *more])} |"


def _versions(name: str, reports: Reports) -> str:
    proved = set(reports.found("version"))
    return ", ".join(f"{v}" if f"{name} {v}" in proved else f"({v})" for v in versions(name))


def _cases(name: str, reports: Reports) -> str:
    count = collections.Counter(reports.found("proved"))[name]
    return f"{count}" if find(name) is not None else f"{count}, through its body"


def _why(name: str) -> str:
    entry = find(name)
    if entry is None:
        return "**missing**"
    return f"refused: {entry.reason}" if entry.is_refused else f"it is {entry.reason}"


def _counts(reports: Reports) -> list[str]:
    found: dict[str, set[str]] = collections.defaultdict(set)
    for key, value in reports.properties:
        found[key].add(value)
    return [f"{'  ' if line.startswith(' ') else ''}- {line.strip()}" for line in of_node_tests(found)]


def main() -> int:
    """Run the checks and write the page, or what another provider tells."""
    parser = argparse.ArgumentParser(prog="python -m docs.operators", description=__doc__)
    parser.add_argument("--provider", choices=["cpu", "cuda"], default="cpu")
    provider = parser.parse_args().provider
    if provider == "cpu":
        PAGE.write_text(page(check(*(f"tests/gradients/{name}" for name in CHECKS))))
        print(f"Wrote {PAGE.name}.")
        return 0
    types = check("tests/gradients/test_types.py", "--provider", provider).types()
    path = OTHER_PROVIDERS[provider.upper()]
    path.write_text(
        json.dumps({"onnxruntime": onnxruntime.__version__, "types": types}, indent=1, sort_keys=True) + "\n"
    )
    print(f"Wrote {path.name}. Run make operators, which takes its marks into the page.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
