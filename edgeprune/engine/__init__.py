"""The sequential engine: block by block, both streams through the pruned prefix, restartable."""

from edgeprune.engine.prune import PrunedCheckpoint, Pruning, prune

__all__ = ["PrunedCheckpoint", "Pruning", "prune"]
