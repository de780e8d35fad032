"""Recovery: training the kept weights under a fixed mask."""

# In the order in which they make sense; `edgeprune.recovery.run` runs them.
RECOVERIES = ("reconstruct", "distill", "finetune")
