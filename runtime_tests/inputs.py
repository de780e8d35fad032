"""What every runner reads: the same windows for perplexity, the same tokens for timing."""

from collections.abc import Iterator

_WINDOW = 512


def windows(ids: list[int]) -> Iterator[list[int]]:
    """Whole windows of 512 tokens, one behind the other; what is left at the end is not read."""
    for start in range(0, len(ids) - _WINDOW + 1, _WINDOW):
        yield ids[start : start + _WINDOW]


def timing_ids(tokens: int, vocabulary: int) -> list[int]:
    """Token ids that only depend on their number; which ones doesn't matter for speed."""
    return [100 + (i * 7919) % (vocabulary - 100) for i in range(tokens)]
