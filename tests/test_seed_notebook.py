"""The notebook that the project was made from: every cell runs on renom_onnx and prints what it printed then."""

import ast
import contextlib
import functools
import io
import json
import re
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
CELLS = [
    cell
    for cell in json.loads((ROOT / "examples/seed_tour.ipynb").read_text("utf-8"))["cells"]
    if cell["cell_type"] == "code"
]
EXPECTED = json.loads(Path(__file__).with_name("data").joinpath("seed_outputs.json").read_text("utf-8"))


@dataclass
class Output:
    """What one cell printed, the repr of its last expression, and the traceback where it raised."""

    stdout: str
    result: str | None
    error: str | None = None


def run_cell(source: str, namespace: dict[str, object]) -> Output:
    """Execute a cell as a notebook does: the value of a last expression is displayed unless it is None."""
    printed, result, error = io.StringIO(), None, None
    tree = ast.parse(source)
    last = ast.Expression(tree.body.pop().value) if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(tree, "<cell>", "exec"), namespace)
            if last and (value := eval(compile(last, "<cell>", "eval"), namespace)) is not None:
                result = repr(value)
        except Exception:
            error = traceback.format_exc()
    return Output(printed.getvalue(), result, error)


@functools.cache
def run_notebook() -> list[Output]:
    """The outputs of the cells in one namespace, up to the first that raises. NumPy 1.13 printed the original's."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    outputs: list[Output] = []
    with np.printoptions(legacy="1.13"):
        for cell in CELLS:
            outputs.append(run_cell("".join(cell["source"]), namespace))
            if outputs[-1].error:
                break
    return outputs


def without_class_name(text: str | None) -> str | None:
    """`Node([[5.],\\n      [5.]])` as `([[5.],\\n [5.]])`: a repr indents its lines by the length of the class name."""
    return text and re.sub(r"\n\s+", "\n ", re.sub(r"^\w+\(", "(", text))


@pytest.mark.parametrize("index", range(len(CELLS)), ids=lambda index: f"cell{index + 1}")
def test_cell_prints_what_the_seed_shows(index: int):
    outputs, expected = run_notebook(), EXPECTED[index]
    assert index < len(outputs), f"not run: cell {len(outputs)} raised\n{outputs[-1].error}"
    output = outputs[index]
    assert not output.error, output.error
    assert output.stdout == expected["stdout"]
    # Cell 5 shows a v2.0 Node, whose class was the operation that made it.
    normal = without_class_name if expected["cell"] == 5 else str
    assert normal(output.result) == normal(expected["result"])


def test_notebook_stores_the_outputs_of_the_seed():
    stored = []
    for cell in CELLS:
        texts = {"stream": "", "execute_result": None}
        for output in cell["outputs"]:
            kind = output["output_type"]
            texts[kind] = "".join(output["text"] if kind == "stream" else output["data"]["text/plain"])
        stored.append({"cell": cell["execution_count"], "stdout": texts["stream"], "result": texts["execute_result"]})
    assert stored == EXPECTED
