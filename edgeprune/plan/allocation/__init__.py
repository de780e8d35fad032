"""Which matrix gets how much of the sparsity: numbers in, numbers out. One file an allocation.

`edgeprune.engine.allocate` measures what they ask for and calls them; `exact` turns what they say
into whole numbers of zeros. Names cost no torch.
"""

from dataclasses import dataclass

ALLOCATIONS = (
    "uniform",  # every matrix alike
    "atp",  # early blocks keep more: a straight line over depth
    "owl",  # blocks with more outliers among their scores keep more
    "rank",  # matrices whose loss hurts the task more keep more
    "map",  # as the user says, by name
    "evolve",  # searched: small changes that bring the pruned model nearer to the dense one
)


@dataclass(frozen=True)
class Allocation:
    """How sparsity is spread over the matrices of the blocks; their total is what was asked for.

    Attributes:
        kind: one of `ALLOCATIONS`.
        spread: half-width a of atp and rank, λ of owl: sparsities lie about ``p ± spread``.
        shares: of map, regular expressions on matrix names and the sparsity of what they match.
    """

    kind: str = "uniform"
    spread: float = 0.1
    shares: tuple[tuple[str, float], ...] = ()
