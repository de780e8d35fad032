"""Atomic writes of files and folders, and hashes of their content."""

import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from edgeprune.support.errors import CheckFailed


def cache_folder() -> Path:
    """Return the cache folder; ``EDGEPRUNE_CACHE`` overrides the default."""
    return Path(os.environ.get("EDGEPRUNE_CACHE") or platformdirs.user_cache_dir("edgeprune"))


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; rename it over the target on success.

    The data is on the disk before the rename, so that a target that exists is a target that is
    complete, even after a power cut. On an error nothing is left behind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        flush(temporary)
        temporary.chmod(0o644)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder; rename it to ``target`` on success.

    If another process completed the target in the meantime, that one is kept.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        for path in temporary.rglob("*"):
            if path.is_file():
                flush(path)
        try:
            temporary.replace(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Remove temporary files and folders that a killed run left; their names begin with a dot."""
    for path in list(folder.glob(pattern)):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write indented JSON atomically; raises the same errors as `json_text`."""
    write_text(target, json_text(value, indent=2, ensure_ascii=False) + "\n")


def json_text(value: Any, **layout: Any) -> str:
    """Return JSON text without bare ``NaN``, which other JSON readers reject.

    Raises:
        CheckFailed: a number in it is NaN or infinite; the message says where.
    """
    try:
        return json.dumps(value, allow_nan=False, **layout)
    except ValueError:
        if found := _not_finite(value, ""):
            raise CheckFailed(
                f"{found}: a result must be a finite number.",
                "Check the model for NaN or very large weights and activations.",
            ) from None
        raise


def _not_finite(value: Any, where: str) -> str | None:
    """Find the first NaN or infinite number in a JSON-like value: where it is, and its value."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{where or 'value'} = {number(value)}"
    inside = (
        value.items() if isinstance(value, dict)
        else enumerate(value) if isinstance(value, list | tuple)
        else ()
    )  # fmt: skip
    found = (_not_finite(part, f"{where}.{name}".lstrip(".")) for name, part in inside)
    return next(filter(None, found), None)


def number(value: float) -> str:
    """Format a number that is not finite."""
    return "NaN" if math.isnan(value) else "infinity" if value > 0 else "-infinity"


def read_json(path: Path) -> Any | None:
    """Read JSON; None if the file is missing or damaged, since it can always be recreated.

    A bare ``NaN`` or ``Infinity`` is not JSON: a file with one counts as damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError):
        return None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not valid JSON")


def sha256_file(path: Path) -> str:
    """Compute the SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Compute the SHA-256 of a JSON-like value in canonical form."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def kept(kind: str, key: str, make: Callable[[], Any]) -> Any:
    """Return what an earlier build has measured, or measure it and keep it in the cache.

    Of several processes that ask at once, one measures, and the others wait.

    Args:
        kind: name of a folder of the cache.
        key: hash of everything that it depends on.
        make: measures it; what it returns can be written as JSON.
    """
    path = cache_folder() / kind / f"{key[:16]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        found = read_json(path)
        if found is None:
            found = make()
            write_json(path, found)
    return found
