"""Measure an artifact in its own runtime: accuracy, likelihood, speed and memory."""

from runtime_tests.run import Plan, quality, run, run_on_gpus

__all__ = ["Plan", "quality", "run", "run_on_gpus"]
