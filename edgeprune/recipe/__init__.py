"""What a build is made from: its schema, and how files and flags are read."""

from edgeprune.recipe.schema import Recipe

__all__ = ["Recipe"]
