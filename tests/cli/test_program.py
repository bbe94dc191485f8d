"""The command line as a program: help, exit codes, errors in one line, JSON, and what it runs without."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest

import renom_onnx as rm
from renom_onnx.cli import main, program
from renom_onnx.cli.program import commands
from tests.converters.programs import Program

ROOT = Path(__file__).parents[2]
HEADER = '<ir_version: 10, opset_import: ["": 18]>'
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with models, which is the current one."""
    text = f"{HEADER} f (float[N, T, 2] x, int64[N] k) => (float[N, T, 2] y, int64[N] z) {{ y = Relu(x) z = Neg(k) }}"
    onnx.save(onnx.parser.parse_model(text), tmp_path / "two.onnx")
    onnx.save(Program("mlp", "Sgd", 18).model(), tmp_path / "mlp.onnx")
    broken = Program("mlp", "Sgd", 18).model()
    broken.training_info[0].update_binding[0].key = "nobody"
    onnx.save(broken, tmp_path / "broken.onnx")
    unknown = onnx.parser.parse_model(f"{HEADER} f (float[2] x) => (float[2] y) {{ y = Swoosh(x) }}")
    onnx.save(unknown, tmp_path / "unknown.onnx")
    (tmp_path / "garbage.onnx").write_bytes(b"\xff\xff")
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 2), np.float32))
    np.save(tmp_path / "k.npy", np.array([1, 2], np.int32))
    np.savez(tmp_path / "both.npz", x=np.ones((2, 3, 2)), k=np.array([1, 2]))
    np.save(tmp_path / "pickled.npy", np.array([{}], object), allow_pickle=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


ERRORS = {
    "doctor nothing.onnx": "No such file or directory: nothing.onnx",
    "doctor .": "Is a directory: .",
    "doctor garbage.onnx": "doctor: the model must be a complete ONNX file, got garbage.onnx: Error parsing message "
    "with type 'onnx.ModelProto': Wire format was corrupt.",
    "doctor two.onnx --size T": "--size must be NAME=N with a whole number, got 'T'.",
    "doctor two.onnx --size T=many": "--size must be NAME=N with a whole number, got 'T=many'.",
    "show garbage.onnx": "show: the model must be a complete ONNX file, got garbage.onnx: Error parsing message "
    "with type 'onnx.ModelProto': Wire format was corrupt.",
    "show two.onnx --html nowhere/page.html": "No such folder to write to: nowhere",
    "infer two.onnx": "give data or --random, and not both.",
    "infer two.onnx both.npz --random": "give data or --random, and not both.",
    "infer two.onnx --random": "--random: the size of T must be given, as in --size T=8.",
    "infer two.onnx x.npy": "x.npy: say for which input it is, as in x=x.npy.",
    "infer two.onnx x=both.npz": "both.npz holds arrays by name: give it without x=.",
    "infer two.onnx x=pickled.npy": "pickled.npy: it must be an .npy or .npz file of plain arrays, got: Object arrays "
    "cannot be loaded when allow_pickle=False",
    "infer two.onnx x=x.npy": "InferenceSession.run: every input must be fed, got 'x', but 'k' is missing.",
    "infer two.onnx both.npz --output out.txt": "--output must end in .npz, or in .npy where there is one output, got "
    "out.txt.",
    "infer two.onnx both.npz --output out.npy": "--output must end in .npz, or in .npy where there is one output, got "
    "out.npy.",
    "infer two.onnx both.npz --device gpu": 'device \'gpu\': it must be "cpu", "cuda" or "cuda:<number>", got \'gpu\'.',
}


@pytest.mark.parametrize(("line", "message"), ERRORS.items(), ids=ERRORS.keys())
def test_an_error_is_one_line_and_exit_code_2(line: str, message: str, folder: Path, capsys: Capture):
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == f"renom-onnx {line.split(maxsplit=1)[0]}: {message}"
    assert out == ""
    assert main([*line.split(), "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == {"error": message}


def test_debug_prints_the_traceback(folder: Path, capsys: Capture):
    assert main(["doctor", "garbage.onnx", "--debug"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):")
    assert "renom_onnx.errors.ConversionError: doctor: " in err


def test_an_error_of_ours_says_that_it_is_one(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("renom_onnx.converters.lint", lambda model: {}["key"])
    assert main(["lint", "two.onnx"]) == 2
    expected = "renom-onnx lint: KeyError: 'key' (this should not happen: --debug tells where)\n"
    assert capsys.readouterr().err == expected


def test_an_interrupt_ends_it_quietly(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch):
    def interrupted(model: object) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr("renom_onnx.converters.lint", interrupted)
    assert main(["lint", "two.onnx"]) == 130
    assert capsys.readouterr().err == "renom-onnx lint: interrupted\n"


USAGE = {
    "": "",
    "nothing": "argument command: invalid choice: 'nothing'",
    "doctor": "the following arguments are required: MODEL",
    "doctor two.onnx --batch-size 0": "argument --batch-size: it must be a whole number of 1 or more, got '0'",
    "doctor two.onnx --batch-size many": "argument --batch-size: it must be a whole number of 1 or more, got 'many'",
    "show two.onnx --tree --layers": "argument --layers: not allowed with argument --tree",
    "export two.onnx": "the following arguments are required: OUTPUT",
}


@pytest.mark.parametrize(("line", "message"), USAGE.items(), ids=USAGE.keys())
def test_wrong_usage_is_exit_code_2(line: str, message: str, folder: Path, capsys: Capture):
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert "usage: renom-onnx" in out + err


PROBLEMS = {
    "lint broken.onnx": "update_binding: the key must name an initializer, got 'nobody', which is none.",
    "doctor unknown.onnx": "Verdict: 1 problem found; nothing in it can be trained.",
    "doctor two.onnx --to-train": "Verdict: no dangers or problems found; nothing in it can be trained.",
}


@pytest.mark.parametrize(("line", "message"), PROBLEMS.items(), ids=PROBLEMS.keys())
def test_a_problem_found_is_exit_code_1(line: str, message: str, folder: Path, capsys: Capture):
    assert main(line.split()) == 1
    assert message in capsys.readouterr().out


def test_no_problem_is_exit_code_0(folder: Path, capsys: Capture):
    assert main(["doctor", "two.onnx"]) == 0
    assert main(["doctor", "mlp.onnx", "--to-train", "--no-cpu"]) == 0
    assert main(["lint", "mlp.onnx"]) == 0
    assert capsys.readouterr().out.endswith("mlp.onnx: no problems.\n")


def test_sizes_reach_the_report(folder: Path, capsys: Capture):
    assert main(["doctor", "two.onnx", "--batch-size", "4", "--size", "T=3", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["sizes"], report["is_assumed"], report["inference"]["flops"]) == ({"N": 4, "T": 3}, False, 24 + 4)
    assert main(["show", "two.onnx", "--batch-size", "4", "--size", "T=3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["flops"] == 28


def test_show_has_four_forms(folder: Path, capsys: Capture):
    assert main(["show", "mlp.onnx"]) == 0
    assert capsys.readouterr().out.startswith("node ")
    assert main(["show", "mlp.onnx", "--layers", "--training"]) == 0
    assert "Gemm, GemmGrad" in capsys.readouterr().out
    assert main(["show", "mlp.onnx", "--tree"]) == 0
    assert capsys.readouterr().out.startswith("I am a Gemm (F) at depth 1 with tags: ['Forward']  dense1/Gemm: ")
    assert main(["show", "mlp.onnx", "--html", "page.html", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"page": "page.html"}
    assert (folder / "page.html").read_text("utf-8").startswith("<!doctype html>")


def test_show_opens_the_page(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch):
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert main(["show", "mlp.onnx", "--html", "page.html", "--open"]) == 0
    assert opened == [(folder / "page.html").as_uri()]


def test_infer_reads_arrays_of_every_kind(folder: Path, capsys: Capture):
    assert main(["infer", "two.onnx", "x=x.npy", "k=k.npy"]) == 0
    out, err = capsys.readouterr()
    assert err == "k: converted from int32 to int64\n"
    assert out.startswith("y float32[2, 3, 2]\n[[[0. 0.]")
    assert out.endswith("z int64[2]\n[-1 -2]\n")
    assert main(["infer", "two.onnx", "both.npz", "--json", "--batch-size", "1"]) == 0
    outputs = json.loads(capsys.readouterr().out)["outputs"]
    assert outputs["z"] == {"dtype": "int64", "shape": [2], "values": [-1, -2]}


def test_infer_never_makes_integers_of_floats(folder: Path, capsys: Capture):
    np.save(folder / "float.npy", np.array([1.5, 2.5]))
    assert main(["infer", "two.onnx", "x=x.npy", "k=float.npy"]) == 2
    assert "feed 'k' must be int64[N], got float64[2]" in capsys.readouterr().err


def test_random_numbers_are_the_same_every_time(folder: Path, capsys: Capture):
    line = ["infer", "two.onnx", "--random", "--size", "T=2", "--batch-size", "3", "--json"]
    assert main(line) == 0
    first = capsys.readouterr().out
    assert json.loads(first)["outputs"]["y"]["shape"] == [3, 2, 2]
    assert main(line) == 0
    assert capsys.readouterr().out == first


def test_large_outputs_are_not_printed_as_json(folder: Path, capsys: Capture):
    assert main(["infer", "two.onnx", "--random", "--size", "T=1000", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"]["y"] == {"dtype": "float32", "shape": [1, 1000, 2]}


def test_devices_without_onnxruntime(capsys: Capture, monkeypatch: pytest.MonkeyPatch):
    def missing() -> object:
        raise rm.DeviceError("onnxruntime: it must be installed")

    monkeypatch.setattr("renom_onnx.runtime.ort.onnxruntime", missing)
    assert main(["devices"]) == 1
    assert capsys.readouterr().out.startswith("onnxruntime: it must be installed\nrenom_onnx ")
    assert main(["devices", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problem"] == "onnxruntime: it must be installed"


def test_devices_lists_the_cpu(capsys: Capture):
    assert main(["devices"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("cpu      CPUExecutionProvider (built in), ")
    assert re.search(r"^renom_onnx \S+, onnx \S+, numpy \S+, onnxruntime\S* \S+$", out.splitlines()[-1])


@pytest.mark.parametrize("name", commands())
def test_help_has_a_description_examples_and_lines_that_fit(
    name: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "100")
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: renom-onnx {name} ")
    assert "examples (`renom-onnx demo` writes their files):\n  renom-onnx " in out
    assert "--debug" in out
    assert all(len(line) <= 100 for line in out.splitlines()), out


def test_the_help_of_the_program_names_every_command(capsys: Capture):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in commands().values():
        assert re.search(rf"^    {command.name}\s", out, re.MULTILINE)
    assert "exit codes: 0 it worked, 1 it worked and found a problem, 2 wrong usage or an error" in out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"renom-onnx {rm.__version__}\n"


WITHOUT = """
import sys
sys.modules["onnxruntime"] = None
from renom_onnx.cli import main
codes = [main(line.split()) for line in (
    "--help", "doctor mlp.onnx --no-cpu", "doctor mlp.onnx", "show mlp.onnx", "show mlp.onnx --html page.html",
    "lint mlp.onnx", "export mlp.onnx other.onnx --strip", "devices",
)]
print(codes)
"""


def test_only_running_a_model_needs_onnxruntime(folder: Path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 0, 0, 0, 0, 1]", done.stdout + done.stderr
    assert "  CPU   not known: onnxruntime: it must be installed to evaluate or train, got none." in done.stdout


def test_the_module_is_the_program_and_a_closed_pipe_is_no_error(folder: Path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    shell = f"{sys.executable} -m renom_onnx doctor mlp.onnx --no-cpu | head -1"
    done = subprocess.run(["sh", "-c", shell], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "mlp.onnx: 3 nodes, opset 18, IR version 10, by renom_onnx 0.1.0\n"
    assert done.stderr == ""


def test_the_package_installs_the_program():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    assert scripts == {"renom-onnx": "renom_onnx.cli:main"}
    assert program.PROGRAM in scripts
