"""Random calibration streams."""

import torch

from edgeprune.data.streams import Stream


def streams(samples: int, length: int = 32) -> dict[str, Stream]:
    """Random tokens of both streams; every other one belongs to an answer."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name in ("general", "task"):
        tokens = torch.randint(10, 512, (samples, length), generator=generator)
        found[name] = Stream(tokens, tokens % 2 == 0)
    return found


def streams_of(samples: int = 6, length: int = 32, vocabulary: int = 49152) -> dict[str, Stream]:
    """Random tokens of both streams; about a third of the task's belong to answers."""
    generator = torch.Generator().manual_seed(0)
    streams = {}
    for name in ("general", "task"):
        tokens = torch.randint(3, vocabulary, (samples, length), generator=generator)
        answers = torch.rand(samples, length, generator=generator) < 0.3
        streams[name] = Stream(tokens, answers if name == "task" else torch.ones_like(answers))
    return streams


def small_streams(samples: int = 6, length: int = 32) -> dict[str, Stream]:
    """`streams_of` the words of `tests.support.models.make_small`."""
    return streams_of(samples, length, 512)
