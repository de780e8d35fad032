"""Recovery: training the kept weights under a fixed mask, with the dense model as teacher."""

# In the order in which they make sense; `edgeprune.recovering` runs them.
RECOVERIES = ("reconstruct", "distill", "finetune")
