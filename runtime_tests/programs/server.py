"""OpenAI-style servers: started afresh with an artifact, or running already somewhere."""

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar
from urllib.parse import urlsplit

import psutil

from edgeprune.support.errors import MachineError
from runtime_tests.counters import peak_memory
from runtime_tests.programs.client import Client
from runtime_tests.programs.command import Command

_POLL = 0.02
_UNTIL_READY = 600.0


class Server(Command):
    """A server's command, with ``{model}``, ``{port}`` and ``{threads}`` where they belong."""

    @contextmanager
    def start(self, artifact: Path, threads: int) -> Iterator["_Served"]:
        """See `runtime_tests.programs.Program`."""
        values = {"{model}": str(artifact), "{port}": str(_free_port()), "{threads}": str(threads)}
        command = [_filled(part, values) for part in self.command]
        with tempfile.TemporaryFile("w+") as said:
            before = time.perf_counter()
            process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
            client = Client(f"http://127.0.0.1:{values['{port}']}")
            try:
                _wait(client, process, said, self.said)
                about = {
                    "version": self.version(),
                    "load_seconds": time.perf_counter() - before,
                    "file_bytes": artifact.stat().st_size,
                }
                yield _Served(client, about, process.pid)
            finally:
                client.close()
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@dataclass(frozen=True)
class Address:
    """A server that runs already, and serves what it serves.

    Attributes:
        said: its address.
    """

    said: str
    loads: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Host and port."""
        return urlsplit(self.said).netloc

    def version(self) -> str:
        """Servers do not tell."""
        return self.name

    @contextmanager
    def start(self, artifact: Path, threads: int) -> Iterator["_Served"]:
        """See `runtime_tests.programs.Program`; nothing is started, and no artifact is loaded."""
        client = Client(self.said)
        try:
            if not client.is_ready():
                raise MachineError(f"No server answers at {self.said}.", "Start it first.")
            yield _Served(client, {"version": self.version()}, _listening(self.said))
        finally:
            client.close()


class _Served:
    """A server that answers."""

    def __init__(self, client: Client, about: dict[str, Any], process: int | None):
        self._client, self._about, self._process = client, about, process

    def call(self, name: str, **arguments: Any) -> Any:
        """See `runtime_tests.programs.Running`."""
        if arguments.pop("batch", 1) != 1:
            raise MachineError("Servers are timed with one request at a time: leave out --batch.")
        return getattr(self, name)(**arguments)

    def info(self) -> dict[str, Any]:
        return self._about

    def prefill_seconds(self, tokens: int) -> float:
        return self._client.first_token_seconds(tokens)

    def decode_seconds(self, prompt_tokens: int, tokens: int) -> float:
        return self._client.decode_seconds(prompt_tokens, tokens)

    def first_token_seconds(self, prompt_tokens: int) -> float:
        return self._client.first_token_seconds(prompt_tokens)

    def peak_memory(self) -> int | None:
        return peak_memory(self._process) if self._process else None


def _filled(part: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        part = part.replace(name, value)
    return part


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def _wait(client: Client, process: "subprocess.Popen[bytes]", said: IO[str], command: str) -> None:
    """Wait until a server answers."""
    end = time.monotonic() + _UNTIL_READY
    while not client.is_ready():
        if process.poll() is not None or time.monotonic() > end:
            said.seek(0)
            tail = " ".join(said.read().split())[-300:]
            how = "does not answer" if process.returncode is None else "ended"
            raise MachineError(f"{command} {how}: {tail or 'it left no message'}")
        time.sleep(_POLL)


def _listening(address: str) -> int | None:
    """Find the process behind an address, if it is on this machine and may be seen."""
    parts = urlsplit(address)
    if parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        return None
    with suppress(psutil.AccessDenied):
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr[1:] == (parts.port,):
                return one.pid
    return None
