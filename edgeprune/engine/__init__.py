"""The sequential engine: block by block, both streams through the pruned prefix, restartable."""

from edgeprune.engine.prune import PrunedCheckpoint, Pruning, finished, prune

__all__ = ["PrunedCheckpoint", "Pruning", "finished", "prune"]
