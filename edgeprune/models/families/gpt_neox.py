"""GPT-NeoX, Pythia and models with the same feed-forward names; ONNX graphs are traced."""

from edgeprune.models.families.base import Family, FeedForwardNames

FAMILY = Family(
    model_types=("gpt_neox",),
    feed_forward=FeedForwardNames(("dense_h_to_4h",), "dense_4h_to_h"),
    activation="gelu",
)
