"""Sensitivity: what pruning a part of the model would cost."""
