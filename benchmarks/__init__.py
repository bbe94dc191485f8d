"""Benchmarks: ``python -m benchmarks`` prints ratios of medians against peers, measured in one run."""
