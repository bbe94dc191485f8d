"""The documentation is true: what its pages print is what they say, and its links lead somewhere."""

import contextlib
import doctest
import re
from pathlib import Path

import pytest

import renom_onnx as rm

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
EXAMPLES = {
    page: re.findall(r"^```pycon\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL) for page in PAGES
}
DECISIONS = sorted((DOCS / "decisions").glob("[0-9]*.md"))


def name(page: Path) -> str:
    return str(page.relative_to(DOCS))


@pytest.mark.parametrize("page", [page for page in PAGES if EXAMPLES[page]], ids=name)
def test_page_prints_what_it_shows(page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rm.set_seed(0)
    test = doctest.DocTestParser().get_doctest("\n".join(EXAMPLES[page]), {}, page.name, str(page), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False)
    with contextlib.chdir(tmp_path):
        runner.run(test)
    assert runner.tries > 3
    assert runner.failures == 0, capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_of_page_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_of_page_exist(page: Path):
    for module in re.findall(r"python -m ((?:examples|benchmarks)\.\w+)", page.read_text("utf-8")):
        assert (DOCS.parent / module.replace(".", "/")).with_suffix(".py").exists(), module


@pytest.mark.parametrize("page", DECISIONS, ids=name)
def test_decision_is_short_and_has_its_parts(page: Path):
    lines = page.read_text("utf-8").splitlines()
    assert len(lines) <= 40
    assert re.fullmatch(rf"# {page.name[:4]}\. .+", lines[0])
    headings = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert headings == ["Status", "Context", "Decision", "Consequences", "Rejected"]


def test_decisions_are_numbered_without_gaps():
    assert [int(page.name[:4]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    index = (DOCS / "decisions" / "index.md").read_text("utf-8")
    assert [page.name for page in DECISIONS if page.name not in index] == []
