"""Phi 1 to 2 and models with the same feed-forward names; ONNX graphs are traced."""

from edgeprune.models.families.base import Family, FeedForwardNames

FAMILY = Family(
    model_types=("phi",),
    feed_forward=FeedForwardNames(("fc1",), "fc2"),
    activation="gelu_new",
)
