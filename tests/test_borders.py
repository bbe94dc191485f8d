"""The borders between the parts of the project: who may import whom, how long a file may be, what it may not name."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "renom_onnx"
LONGEST_FILE = 500

# Where each back end may be imported: files and folders relative to the root.
PROTOBUF = (f"{PACKAGE}/graph/schema.py", f"{PACKAGE}/converters/")
ONNXRUNTIME = (f"{PACKAGE}/runtime/",)

# Module-level imports go from a part to one of the same or a lower rank. Parts that are not named may be used by all,
# and are followed: what they import counts for whoever imports them.
RANK = {"graph": 0, "gradients": 0, "converters": 1, "runtime": 2, "eager": 3, "cli": 3, "__main__": 3}

# Written in two pieces, so that this file is not the first to break the rule.
FOREIGN = re.compile(
    "|".join([r"(?<![\w.])/wo" + "rk/", r"\bpypi" + r"\.org\b", "pythonhosted" + r"\.org", r"pytorch\.org/wh" + "l"])
)


def project_files() -> list[Path]:
    """The files of the project: those git tracks or would track; without git, all but hidden and built ones."""
    git = shutil.which("git")
    command = [git or "git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if git and (listing := subprocess.run(command, capture_output=True, text=True, check=False)).returncode == 0:
        paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    else:
        folders = [ROOT / name for name in (PACKAGE, "tests", "benchmarks", "examples", "docs")]
        paths = [*ROOT.glob("*.*"), *(path for folder in folders for path in folder.rglob("*"))]
    skipped = {"__pycache__", "_build"}
    return sorted(path for path in paths if path.is_file() and not skipped & set(path.relative_to(ROOT).parts))


FILES = project_files()
SOURCES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in FILES if path.suffix == ".py"}
TREES = {name: ast.parse(source, name) for name, source in SOURCES.items()}
PACKAGE_TREES = {name: tree for name, tree in TREES.items() if name.startswith(f"{PACKAGE}/")}


def module_name(file: str) -> str:
    parts = PurePosixPath(file).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(name): name for name in PACKAGE_TREES}


def imported_names(node: ast.AST, file: str) -> Iterator[str]:
    """The absolute names that one statement or call may import: `from a import b` gives a and a.b."""
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            folder = PurePosixPath(file).parent.parts
            base = ".".join([*folder[: len(folder) - level + 1 if level else 0], *([module] if module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in names)
        case ast.Call(func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module")):
            yield from (
                arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
            )


def all_imports(file: str) -> Iterator[tuple[int, str]]:
    """(line, name) of every import of a file, those inside functions too."""
    for node in ast.walk(TREES[file]):
        yield from ((node.lineno, name) for name in imported_names(node, file))


def executed_imports(file: str) -> Iterator[tuple[int, str]]:
    """(line, name) of the imports that importing the file runs: neither in functions nor under TYPE_CHECKING."""
    stack: list[ast.AST] = [TREES[file]]
    while stack:
        node = stack.pop()
        yield from ((node.lineno, name) for name in imported_names(node, file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            stack += node.orelse
            continue
        stack += ast.iter_child_nodes(node)


def part(module: str) -> str:
    """`graph` for renom_onnx.graph.layers.dense, "" for the package itself."""
    return [*module.split("."), ""][1]


@pytest.mark.parametrize(("back_end", "allowed"), [("onnx", PROTOBUF), ("onnxruntime", ONNXRUNTIME)])
def test_back_end_is_imported_in_its_place_only(back_end: str, allowed: tuple[str, ...]):
    found = [
        f"{file}:{line} imports {name}"
        for file in PACKAGE_TREES
        if not file.startswith(allowed)
        for line, name in all_imports(file)
        if name.split(".")[0] == back_end
    ]
    assert not found, f"{back_end} is imported in {' and '.join(allowed)} only, got\n" + "\n".join(found)


@pytest.mark.parametrize("start", [name for name, rank in RANK.items() if rank < max(RANK.values())])
def test_imports_point_one_way(start: str):
    found, seen = {}, set()
    ways = [(module, module) for module in MODULES if part(module) == start]
    while ways:
        module, way = ways.pop()
        if module in seen:
            continue
        seen.add(module)
        for line, name in executed_imports(MODULES[module]):
            for target in MODULES.keys() & set(accumulate(name.split("."), "{}.{}".format)) - {PACKAGE}:
                if RANK.get(part(target), 0) > RANK[start]:
                    found[way, line] = f"{way}:{line} imports {name}"
                else:
                    ways.append((target, f"{way} -> {target}"))
    assert not found, f"{start} stands below what it imports:\n" + "\n".join(found.values())


def test_nothing_imports_through_the_links_at_the_root():
    found = [
        f"{file}:{line} imports {name}, which is {PACKAGE}.{name}"
        for file in TREES
        for line, name in all_imports(file)
        if name.split(".")[0] in {"converters", "runtime"}
    ]
    assert not found, "\n".join(found)


def test_no_file_is_longer_than_500_lines():
    found = [
        f"{file}: {n_lines} lines" for file, source in SOURCES.items() if (n_lines := source.count("\n")) > LONGEST_FILE
    ]
    assert not found, f"a file past {LONGEST_FILE} lines holds two ideas, got\n" + "\n".join(found)


def test_no_file_names_the_machine_it_was_written_on():
    found = [
        f"{path.relative_to(ROOT).as_posix()}:{number}: {line.strip()[:80]}"
        for path in FILES
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1)
        if FOREIGN.search(line)
    ]
    assert not found, "absolute paths and package index hosts do not belong in the project, got\n" + "\n".join(found)
