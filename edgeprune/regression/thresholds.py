"""What a build may lose."""

import math
from dataclasses import dataclass

from edgeprune.support.errors import UsageError

# How many times the allowed loss of speed each kind may lose: prefill's noise is twice decode's.
TIMES = {"prefill": 2, "decode": 1}


@dataclass(frozen=True)
class Thresholds:
    """What may be lost, as shares where nothing else is said.

    Attributes:
        speed: of the speed of the baseline's artifact, timed beside the build's own. Prefill may
            lose twice as much, here and below: on a shared machine its noise is twice decode's.
        drift: of the speed relative to the dense baseline's, beside that of the earlier
            measurement. On a shared machine that ratio wanders: by 10 % in decode and 30 % in
            prefill, which is bound by computing and suffers more from neighbours
            (docs/measured/check-rule.md).
        total_speed: of tokens per second, on the same machine.
        accuracy: points of 100.
        nats: per answer token.
        perplexity: nats of general text.
        chat: divergence from the dense model on held-out conversations.
        size: of the file.
        memory: at its peak.
    """

    speed: float = 0.03
    drift: float = 0.2
    total_speed: float = 0.25
    accuracy: float = 2.0
    nats: float = 0.02
    perplexity: float = 0.02
    chat: float = 0.1
    size: float = 0.01
    memory: float = 0.1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < math.inf:  # NaN would hold everything
                raise UsageError(f"The threshold {name} is {value}: expected a number from 0 on.")
