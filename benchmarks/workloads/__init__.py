"""The workloads by name."""

from benchmarks.workloads import dense, image, sequence
from benchmarks.workloads.workload import PRECISIONS, RATES, Step, Workload

WORKLOADS = {w.name: w for w in [*dense.WORKLOADS, *image.WORKLOADS, *sequence.WORKLOADS]}

__all__ = ["PRECISIONS", "RATES", "WORKLOADS", "Step", "Workload"]
