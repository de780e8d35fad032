"""What becomes of every tensor, as data and arithmetic: no torch."""
