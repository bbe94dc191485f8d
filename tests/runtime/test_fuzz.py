"""Broken copies of a training file are read, or refused with an error of ours; nothing crashes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.fuzz import READERS

ROOT = Path(__file__).parents[2]
N_COPIES, N_PARTS = 300, 2


@pytest.mark.parametrize("part", range(N_PARTS))
def test_a_broken_copy_is_read_or_refused(part: int):
    first, last = (i * N_COPIES // N_PARTS for i in (part, part + 1))
    command = [sys.executable, "-W", "error", "-m", "tests.runtime.fuzz", str(first), str(last)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"crash at seed and reader {done.stderr.splitlines()[-1:]}"
    ends = json.loads(done.stdout.splitlines()[-1])
    unexpected = [end for end in ends if not end.endswith((" works", " raises"))]
    assert not unexpected, "\n".join(unexpected)
    assert sum(ends.values()) == len(READERS) * (last - first)
    assert all(ends[f"{name} {end}"] >= 8 for name in READERS for end in ("works", "raises"))
