"""The model and data hub: check that it can be reached, and download models from it."""

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from edgeprune.support.errors import InputError, UsageError
from edgeprune.support.extras import load

_TIMEOUT_SECONDS = 3.0
# Never pickles, never code.
_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.model", "README.md"]


def hub_reachable() -> bool:
    """Test the connection once, briefly; the hub's own client retries for half a minute."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    if getproxies():
        return True  # only the proxy knows
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname or ""
    try:
        socket.create_connection((host, 443), timeout=_TIMEOUT_SECONDS).close()
    except OSError:
        return False
    return True


def cached_folder(model: str) -> Path | None:
    """Find the local folder of a hub model downloaded earlier, without using the network."""
    hub = load("huggingface_hub")
    try:
        return Path(hub.snapshot_download(model, local_files_only=True))
    except (hub.errors.LocalEntryNotFoundError, hub.errors.HFValidationError, OSError):
        return None


def download(model: str) -> Path:
    """Find the local folder of a hub model, and download it if it is not in the cache.

    Raises:
        UsageError: not a hub id.
        InputError: no such model, or no network and not in the cache.
    """
    hub = load("huggingface_hub")
    try:
        folder = hub.snapshot_download(
            model, allow_patterns=_PATTERNS, local_files_only=not hub_reachable()
        )
    except hub.errors.HFValidationError as error:
        raise UsageError(f"'{model}' is not a valid hub id: {error}") from None
    except (hub.errors.HfHubHTTPError, hub.errors.LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise InputError(
            f"The hub model '{model}' could not be downloaded: {reason}",
            "Check the name and the network connection, or give a local folder or a .gguf file.",
        ) from None
    return Path(folder)
