"""Recipes: their schema, and how they are read from files and flags."""

from edgeprune.recipe.schema import Recipe

__all__ = ["Recipe"]
