"""The sequential engine: prunes block by block on both streams, and can be restarted."""

from edgeprune.engine.prune import PrunedCheckpoint, finished, prune
from edgeprune.pruning.matrix import Pruning

__all__ = ["PrunedCheckpoint", "Pruning", "finished", "prune"]
