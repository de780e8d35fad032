"""A command that runs artifacts."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class Command:
    """A command of a program.

    Attributes:
        said: as it was given.
        name: short.
        command: the program and its options.
    """

    said: str
    name: str
    command: tuple[str, ...]
    loads: ClassVar[bool] = True

    def version(self) -> str:
        """Ask llama.cpp's programs for their version; of others, return the name alone."""
        executable = self.command[0]
        name = Path(executable).name
        if not name.startswith("llama-"):
            return name
        asked = [executable, "--version"]
        said = subprocess.run(asked, capture_output=True, text=True, check=False)
        found = [line for line in (said.stderr + said.stdout).splitlines() if "version:" in line]
        return f"{name} {found[0].partition('version:')[2].strip()}" if found else name
