"""What programs say of their version."""

import subprocess
from pathlib import Path


def version_of(executable: str) -> str:
    """Ask llama.cpp's programs for their version; of others, return the name alone."""
    name = Path(executable).name
    if not name.startswith("llama-"):
        return name
    said = subprocess.run([executable, "--version"], capture_output=True, text=True, check=False)
    found = [line for line in (said.stderr + said.stdout).splitlines() if "version:" in line]
    return f"{name} {found[0].partition('version:')[2].strip()}" if found else name
