"""JSON lines, plain or compressed."""

import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgeprune.support.errors import InputError

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of a JSON Lines file, plain or compressed with gzip or xz.

    Raises:
        InputError: the file is missing or a line is not a JSON object; names the line.
    """
    opener = _OPENERS.get(path.suffix, open)
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                if not isinstance(row, dict):
                    raise InputError(f"{path}, line {number}: expected one JSON object per line.")
                yield row
    except FileNotFoundError:
        raise InputError(f"No such file: {path}.") from None
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path} cannot be read as JSON Lines: {error}.") from None
