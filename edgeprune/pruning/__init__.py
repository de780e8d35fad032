"""Scores, fusion, masks and weight updates of single matrices."""
