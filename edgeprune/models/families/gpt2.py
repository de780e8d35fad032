"""GPT-2 and models with the same feed-forward names; ONNX graphs are traced."""

from edgeprune.models.families.base import Family, FeedForwardNames

FAMILY = Family(
    model_types=("gpt2",),
    feed_forward=FeedForwardNames(("c_fc",), "c_proj"),
    activation="gelu_new",
    tied=True,
)
