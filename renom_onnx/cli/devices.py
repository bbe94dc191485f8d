"""``renom-onnx devices``: where models can run on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata

from renom_onnx.cli.arguments import print_json
from renom_onnx.cli.command import DONE, PROBLEM, Command


def run(options: argparse.Namespace) -> int:
    """Print the devices and the versions of what runs on them."""
    import numpy as np

    from renom_onnx import __version__
    from renom_onnx.errors import DeviceError
    from renom_onnx.runtime import devices
    from renom_onnx.runtime.ort import installed_distributions, onnxruntime

    versions = {"renom_onnx": __version__, "onnx": importlib.metadata.version("onnx"), "numpy": np.__version__}
    try:
        module = onnxruntime()
        distributions = installed_distributions() or ["onnxruntime"]
        versions[distributions[0]] = module.__version__
        found, problem = devices(), ""
    except DeviceError as error:
        found, problem = [], str(error)
    if options.json:
        print_json({"devices": [dataclasses.asdict(d) for d in found], "versions": versions, "problem": problem})
        return PROBLEM if problem else DONE
    for device in found:
        print(f"{device.name:<8} {device.provider} ({device.packaging}), {device.detail}")
    if problem:
        print(problem)
    elif all(device.name == "cpu" for device in found):
        print("No GPU that onnxruntime can use. For NVIDIA GPUs install renom-onnx[cuda].")
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    return PROBLEM if problem else DONE


def no_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no arguments."""


COMMAND = Command(
    "devices",
    "list the devices that models can run on here",
    "List the devices that sessions can be opened on, the CPU and usable GPUs, and the versions of what runs on them. "
    "Exit code 1 means that no onnxruntime can be used.",
    (("renom-onnx devices", "a line for each device"), ("renom-onnx devices --json", "the same as JSON")),
    no_arguments,
    run,
)
