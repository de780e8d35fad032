"""EvoPress (arXiv 2410.14649): an evolutionary search for the allocation itself."""

import random
from collections.abc import Callable

from edgeprune.planning.allocation import Fitness, Request, Zeros
from edgeprune.planning.allocation.exact import limit

# The paper runs some 400 generations of 64 on a GPU; most of the gain comes early.
GENERATIONS = 16
OFFSPRING = 8
# Survivors of each round of selection, and on what share of the data the round judges.
_ROUNDS = ((4, 0.25), (2, 0.5), (1, 1.0))
_MOST_MOVES = 3
# Weights that one move takes from one matrix to another, as a share of the smaller of the two.
_STEP = 0.05


def search(
    start: Zeros,
    sizes: dict[str, int],
    limits: dict[str, int],
    fitness: Fitness,
    tick: Callable[[], None],
    seed: int = 0,
) -> Zeros:
    """Find the best allocation by a (1+λ) search.

    Offspring differ from the parent by one to three moves, each of equally many zeros from one
    matrix to another, so the total never changes. Selection goes in rounds that rate fewer
    offspring on more data; the winner replaces the parent if it is better on all the data, so the
    fitness on all the data never gets worse.

    Args:
        start: zeros of each matrix.
        sizes: number of weights of each matrix.
        limits: largest number of zeros of each matrix.
        fitness: rates candidates on a share of the data; lower is better.
        tick: called after every generation.
        seed: random seed of the moves.
    """
    chance = random.Random(seed)
    parent, (best,) = start, fitness([start], 1.0)
    for _ in range(GENERATIONS):
        candidates = [_mutated(parent, sizes, limits, chance) for _ in range(OFFSPRING)]
        for survivors, share in _ROUNDS:
            values = fitness(candidates, share)
            order = sorted(range(len(candidates)), key=values.__getitem__)[:survivors]
            candidates = [candidates[place] for place in order]
        if values[order[0]] < best:
            parent, best = candidates[0], values[order[0]]
        tick()
    return parent


def _mutated(
    parent: Zeros, sizes: dict[str, int], limits: dict[str, int], chance: random.Random
) -> Zeros:
    child = dict(parent)
    for _ in range(chance.randint(1, _MOST_MOVES) if len(sizes) > 1 else 0):
        denser, sparser = chance.sample(list(sizes), 2)
        step = round(_STEP * min(sizes[denser], sizes[sparser]))
        moved = min(step, child[denser], limits[sparser] - child[sparser])
        child[denser] -= moved
        child[sparser] += moved
    return child


def allocate(request: Request) -> Zeros:
    """Run the search from uniform zeros."""
    limits = {name: limit(size, request.sparsity) for name, size in request.sizes.items()}
    model = request.sensitivity()
    fitness = model.fitness()
    with model.stage("evolve allocation", GENERATIONS) as stage:
        return search(request.uniform, request.sizes, limits, fitness, stage.advance)
