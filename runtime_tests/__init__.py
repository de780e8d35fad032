"""Proving an artifact in the runtime it is for: accuracy, likelihood, speed and memory."""

from runtime_tests.run import Plan, run

__all__ = ["Plan", "run"]
