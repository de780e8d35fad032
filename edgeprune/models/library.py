"""The transformers library, quiet."""

from types import ModuleType

from edgeprune.support.extras import load


def transformers() -> ModuleType:
    """The transformers library without bars and warnings of its own: edgeprune shows progress."""
    library = load("transformers")
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    return library
