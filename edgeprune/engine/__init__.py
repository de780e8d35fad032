"""The sequential engine: block by block, both streams through the pruned prefix, restartable."""

from edgeprune.engine.prune import PrunedCheckpoint, finished, prune
from edgeprune.pruning.matrix import Pruning

__all__ = ["PrunedCheckpoint", "Pruning", "finished", "prune"]
