"""Compiles the sparse runtime's libraries into the package when edgeprune is installed.

Without a C++ compiler the package installs all the same: models then run in llama.cpp as they
stand in their files, and edgeprune says so (`edgeprune runtime`).
"""

import platform
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SUFFIX = {"Darwin": ".dylib", "Windows": ".dll"}.get(platform.system(), ".so")
# For Python, and for other programs.
_LIBRARIES = [f"libedgeprune_runtime{_SUFFIX}"]
if platform.system() == "Linux":
    _LIBRARIES.append("libggml-edgeprune.so")


class NativeRuntime(BuildHookInterface):
    """Puts the libraries into `edgeprune/runtime`; the wheel is then for one platform."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects files."""
        if self.target_name != "wheel":
            return
        targets = [Path(self.root, "edgeprune", "runtime", name) for name in _LIBRARIES]
        for target in targets:
            target.unlink(missing_ok=True)
        try:
            self._compile(targets)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stdout", None) or str(error)
            self.app.display_warning(
                f"The sparse runtime is left out; compiling it failed:\n{said}"
            )
            return
        tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{tag}"

    def _compile(self, targets: list[Path]) -> None:
        source = Path(self.root, "edgeprune", "runtime")
        with tempfile.TemporaryDirectory() as folder:
            for command in (
                ["cmake", "-S", source, "-B", folder, "-G", "Ninja"],
                ["cmake", "--build", folder],
            ):
                subprocess.run(
                    command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
                )
            for target in targets:
                target.write_bytes(Path(folder, target.name).read_bytes())
