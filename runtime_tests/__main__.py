"""A child of `runtime_tests.child`: ``python -m runtime_tests ARTIFACT THREADS DEVICE``."""

import sys
from functools import partial
from pathlib import Path

from runtime_tests.runners import open_runner
from runtime_tests.serve import serve

if __name__ == "__main__":
    artifact, threads, device = sys.argv[1:]
    serve(partial(open_runner, Path(artifact), int(threads), device))
