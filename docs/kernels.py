"""``python -m docs.kernels FOLDER`` writes the list of kernels of an onnxruntime-gpu, which the doctor reads.

FOLDER holds an unpacked wheel of onnxruntime-gpu. Nothing in the list is typed: the wheel is asked for its registry. No
GPU is needed, because nothing is run: NVIDIA's libraries are replaced by empty ones, which gcc builds from the names
that the wheel wants, and the registry is read in a process of its own.
"""

from __future__ import annotations

import collections
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[1] / "renom_onnx" / "converters" / "doctor" / "kernels.txt"
PROVIDERS = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda"}
TENSOR = re.compile(r"(?:^| )tensor\((\w+)\)")
DOMAINS = ("", "ai.onnx.ml", "com.microsoft")
LIBRARIES = ("libonnxruntime_providers_cuda.so", "libonnxruntime_providers_tensorrt.so")
PROGRAM = """
import json, onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state
rows = [[k.provider, k.domain, k.op_name, k.version_range, k.type_constraints] for k in state.get_all_opkernel_def()]
print(json.dumps([onnxruntime.__version__, rows]))
"""
Key = tuple[str, str, str, int, int]


def lines_of(command: list[str]) -> list[str]:
    """Return what a program prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def empty_libraries(capi: Path, folder: Path) -> None:
    """Build a library that does nothing for each of NVIDIA's that the wheel wants."""
    wanted, symbols = set(), {}
    for library in LIBRARIES:
        needed = [line for line in lines_of(["readelf", "-d", str(capi / library)]) if "(NEEDED)" in line]
        wanted |= {name for line in needed if (name := line.split("[")[1].rstrip("]")).startswith(("libcu", "libnv"))}
        for line in lines_of(["nm", "-D", "--undefined-only", str(capi / library)]):
            kind, name = line.split()[-2:]
            name, _, version = name.partition("@")
            if version in wanted or (not version and kind == "U" and name != "Provider_GetHost"):
                symbols[name] = version
    for library in sorted(wanted):
        own = sorted(name for name, version in symbols.items() if version == library)
        names = [*own, *(name for name, version in symbols.items() if not version)]
        source, script = folder / f"{library}.c", folder / f"{library}.map"
        source.write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in names))
        script.write_text(f"{library} {{ global: {'; '.join(own)}; }};\n" if own else "")
        command = [
            "gcc",
            "-shared",
            "-fPIC",
            "-w",
            "-fno-builtin",
            f"-Wl,-soname,{library}",
            "-o",
            str(folder / library),
        ]
        subprocess.run([*command, *([f"-Wl,--version-script={script}"] if own else []), str(source)], check=True)


def registry(wheel: Path) -> tuple[str, list[Any]]:
    """Return the version of the onnxruntime, and its kernels."""
    with tempfile.TemporaryDirectory() as folder:
        empty_libraries(wheel / "onnxruntime" / "capi", Path(folder))
        environment = {**os.environ, "LD_LIBRARY_PATH": folder, "PYTHONPATH": str(wheel)}
        command = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    version, rows = json.loads(done.stdout.splitlines()[-1])
    return version, rows


def merged(rows: list[Any]) -> dict[Key, list[dict[str, set[str]]]]:
    """Return the types by kernel; two entries that differ in one type parameter become one."""
    found: dict[Key, list[dict[str, set[str]]]] = collections.defaultdict(list)
    for provider, domain, name, (first, last), types in rows:
        if provider not in PROVIDERS or domain not in DOMAINS:
            continue
        entries = found[PROVIDERS[provider], domain, name, first, last]
        new = {parameter: set(kinds) for parameter, kinds in types.items()}
        while (like := next((e for e in entries if _differences(e, new) <= 1), None)) is not None:
            entries.remove(like)
            new = {parameter: like[parameter] | kinds for parameter, kinds in new.items()}
        entries.append(new)
    return found


def _differences(a: dict[str, set[str]], b: dict[str, set[str]]) -> int:
    return sum(a[p] != b[p] for p in a) if a.keys() == b.keys() else 2


def text(version: str, rows: list[Any]) -> str:
    """Return the list: provider, domain, operator, first and last version, and the types of each type parameter."""
    lines = [
        f"# Kernels that onnxruntime-gpu {version} registers; written by `python -m docs.kernels`.",
        "# provider domain operator first last parameter=types; '-' is ONNX's own domain, '+' has no last version.",
        "# Types are those of tensors; sequences are left out.",
    ]
    for (provider, domain, name, first, last), entries in sorted(merged(rows).items()):
        for types in sorted(entries, key=lambda entry: sorted(map(str, map(sorted, entry.values())))):
            names = {p: sorted(TENSOR.findall(" ".join(kinds))) for p, kinds in sorted(types.items())}
            kinds = [f"{parameter}={','.join(tensors)}" for parameter, tensors in names.items() if tensors]
            end = "+" if last >= 2**31 - 1 else str(last)
            lines.append(" ".join([provider, domain or "-", name, str(first), end, *kinds]))
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the list."""
    if len(sys.argv) != 2:
        print("usage: python -m docs.kernels FOLDER", file=sys.stderr)
        return 2
    version, rows = registry(Path(sys.argv[1]))
    TARGET.write_text(text(version, rows))
    print(f"wrote {TARGET.relative_to(Path.cwd())} from onnxruntime-gpu {version}: {len(rows)} kernels.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
