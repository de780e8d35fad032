"""The command, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

EDGEPRUNE = Path(sys.executable).with_name("edgeprune")


def run(*arguments: object, cwd: Path | None = None, **environment: str):
    """In a process of its own, with the data that edgeprune comes with and no other."""
    inherited = {name: value for name, value in os.environ.items() if name != "EDGEPRUNE_DATA"}
    return subprocess.run(
        [str(EDGEPRUNE), *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=cwd, stdin=subprocess.DEVNULL,
        env=inherited | environment,
    )  # fmt: skip


def fails(code: int, message: str, *arguments: object, **options):
    done = run(*arguments, **options)
    assert done.returncode == code, done.stderr
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    return done
