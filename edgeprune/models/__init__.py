"""Open checkpoints, and find the blocks and linear layers to prune."""

from edgeprune.models.checkpoint import Checkpoint, artifact_path, open_checkpoint

__all__ = ["Checkpoint", "artifact_path", "open_checkpoint"]
