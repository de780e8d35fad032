"""Tests side by side: every worker of pytest-xdist has cores of its own."""

import os


def take_own_cores() -> None:
    """Keep this worker, and all that it starts, on its share of the cores.

    Two pools of threads on the same cores wait for each other: a worker with a core for itself
    takes less time than one with half of two.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None or not hasattr(os, "sched_setaffinity"):
        return
    number, count = int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    if own := sorted(os.sched_getaffinity(0))[number::count]:
        os.sched_setaffinity(0, own)
