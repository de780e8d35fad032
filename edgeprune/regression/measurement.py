"""A build as it is compared: its answers, and its speed beside others."""

import numpy as np
from pydantic import Field

from edgeprune.manifest.base import Facts
from edgeprune.manifest.manifest import Machine
from edgeprune.manifest.results import Answers
from edgeprune.support import environment
from edgeprune.support.files import sha256_json
from runtime_tests.paired import by_process

# Raised whenever a field of `Measurement` changes its name or its meaning.
SCHEMA = 5


class Timed(Facts):
    """Tokens per second, of each process its rounds."""

    prefill: list[list[float]]
    decode: list[list[float]]

    def of(self, kind: str) -> np.ndarray:
        """``prefill`` or ``decode`` of each process, the mean of its runs, (processes,)."""
        return by_process(self.prefill if kind == "prefill" else self.decode)


class MeasuredArtifact(Timed):
    """One artifact: its files and size, its answers, how fast it is.

    Attributes:
        file: relative to the build.
        files: SHA-256 by file, relative to the build.
        sha256: of all of them.
        general_nats: of the general text, window by window.
        general_tokens: in all windows.
        chat_nats: divergence from the dense model on each held-out conversation; none were measured
            if it is empty.
        chat_places: tokens of each.
    """

    file: str
    files: dict[str, str]
    sha256: str
    file_bytes: int
    peak_memory_bytes: int
    answers: Answers
    general_nats: list[float]
    general_tokens: int
    chat_nats: list[float] = Field(default_factory=list)
    chat_places: list[int] = Field(default_factory=list)


class MeasuredProgram(Timed):
    """A program that ran the build's own artifact; prefill has its time to the first token.

    Attributes:
        name: short.
        said: its command, or the address of a server.
        version: as it says.
        peak_memory_bytes: of its process; None where it is not known.
    """

    name: str
    said: str
    version: str
    peak_memory_bytes: int | None


class Environment(Machine):
    """The machine, and what else ran on it."""

    load: float
    governor: str
    frequency_mhz: float | None
    huge_pages: str
    numa_nodes: int


class TimedLengths(Facts):
    """Tokens of the prompt and of the answer that were timed."""

    prefill: int
    decode: int


class Measurement(Facts):
    """A build as `edgeprune.regression.compare` compares it; a baseline is one in a file.

    Attributes:
        schema_number: ``schema`` in the file.
        build: name of its folder.
        folder: where it stands.
        general: hash of the general text.
        machine: fingerprint of where it was timed.
        seconds: that timing took.
        repeated: number of runs made again, since other machines took the processor.
        stolen: share of the processor that other machines took while this one wanted it.
        beside: speeds of the baseline's artifact, twice, each in as many processes as the build's
            own and beside them; empty if it was not there to be timed.
        artifacts: ``dense``, and ``pruned`` if there is one.
        program: that was timed with the build's own artifact.
        program_before: another program, the baseline's, with the baseline's artifact.
    """

    schema_number: int = Field(SCHEMA, alias="schema")
    build: str
    folder: str
    task: str
    general: str
    metric: str
    threads: int
    lengths: TimedLengths
    machine: str
    environment: Environment
    seconds: float
    repeated: int
    stolen: float
    beside: tuple[Timed, ...] = ()
    artifacts: dict[str, MeasuredArtifact]
    program: MeasuredProgram | None = None
    program_before: Timed | None = None

    @property
    def own(self) -> str:
        """Key of the build's own artifact: ``pruned``, or ``dense`` if nothing was changed."""
        return "pruned" if "pruned" in self.artifacts else "dense"


def fingerprint() -> str:
    """The machine and what runs on it: timings with another one are compared as ratios only."""
    found = environment.describe()
    return sha256_json([found["processor"], found["cores"], found["memory_bytes"] >> 30])[:16]
