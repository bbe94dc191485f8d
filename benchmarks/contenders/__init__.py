"""Contenders: what takes a training step (or infers) on a workload, each in a process of its own."""
