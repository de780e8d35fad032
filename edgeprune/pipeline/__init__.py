"""From a recipe to a measured artifact: `build.py` is the page to begin with."""
