"""Proving an artifact in the runtime it is for: accuracy, likelihood, speed and memory."""

from runtime_tests.run import Plan, quality, run, run_on_gpus

__all__ = ["Plan", "quality", "run", "run_on_gpus"]
