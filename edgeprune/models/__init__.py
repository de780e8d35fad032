"""Opening checkpoints, and finding the blocks and linear layers to prune."""

from edgeprune.models.checkpoint import Checkpoint, open_checkpoint

__all__ = ["Checkpoint", "open_checkpoint"]
