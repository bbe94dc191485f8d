"""The memory that this process takes."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path


def peak_mb() -> float:
    """Return the peak in MB.

    Linux tells it for the program alone; ``ru_maxrss`` begins with the size of the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def device_mb() -> float:
    """Return the MB of GPU memory that the driver counts for this process, which no arena here gives back."""
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    return sum(float(size) for pid, size in (line.split(",") for line in lines) if int(pid) == os.getpid())
