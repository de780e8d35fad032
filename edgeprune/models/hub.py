"""The model and data hub: whether it can be reached at all, and fetching a model from it."""

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
    """Ask once, briefly; the hub's own client retries for half a minute before it gives up."""
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
    """The local folder of a hub model that was fetched before; asks no network."""
    hub = load("huggingface_hub")
    try:
        return Path(hub.snapshot_download(model, local_files_only=True))
    except (hub.errors.LocalEntryNotFoundError, hub.errors.HFValidationError, OSError):
        return None


def download(model: str) -> Path:
    """The local folder of a hub model, from the cache if it is there.

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
        raise UsageError(f"'{model}' is not a hub id: {error}") from None
    except (hub.errors.HfHubHTTPError, hub.errors.LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise InputError(
            f"The hub model '{model}' can't be fetched: {reason}",
            "Check the name and the network, or give a local folder or a .gguf file.",
        ) from None
    return Path(folder)
