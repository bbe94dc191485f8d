"""Every message of an error has a test of its words: its longest fixed part occurs in a string of some test."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("graph", "eager", "utility")
SHORTEST = 12  # fixed parts below this length are names, not words
NO_CALL = {
    ": the gradient must know the sizes that the operator's definition asks for, got": "no operator asks for them yet",
}
"""Messages that no call of a user reaches at present, and why."""


def raises(path: Path) -> Iterator[tuple[int, str]]:
    """(line, longest fixed part of the message) of every raise that has words of its own."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            parts = [
                c.value for c in ast.walk(node.exc.args[0]) if isinstance(c, ast.Constant) and isinstance(c.value, str)
            ]
            longest = max((part.strip() for part in parts), key=len, default="")
            if len(longest) >= SHORTEST:
                yield node.lineno, longest


def words_of_tests() -> str:
    strings = []
    for path in (ROOT / "tests").rglob("*.py"):
        if path.name != Path(__file__).name:
            tree = ast.parse(path.read_text("utf-8"))
            strings += [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return "\n".join(strings).replace("\\", "")  # a match= escapes its brackets


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_words_of_every_error_are_tested(folder: str):
    words = words_of_tests()
    missing = [
        f"{path.relative_to(ROOT).as_posix()}:{line}: {message!r}"
        for path in sorted((ROOT / "renom_onnx" / folder).rglob("*.py"))
        for line, message in raises(path)
        if message not in words and message not in NO_CALL
    ]
    assert not missing, "no test has these words, got\n" + "\n".join(missing)
