"""The plan of every tensor, as data and arithmetic, without torch."""
