"""The workloads by name."""

from benchmarks.workloads import dense, image, sequence
from benchmarks.workloads.workload import RATES, Step, Workload

WORKLOADS = {w.name: w for w in [*dense.WORKLOADS, *image.WORKLOADS, *sequence.WORKLOADS]}

__all__ = ["RATES", "WORKLOADS", "Step", "Workload"]
