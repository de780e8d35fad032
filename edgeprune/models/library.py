"""Import the transformers library quietly."""

from types import ModuleType

from edgeprune.support.extras import load


def transformers() -> ModuleType:
    """Import transformers with its own progress bars and warnings off: edgeprune shows progress."""
    library = load("transformers")
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    return library
