"""From a recipe to a measured artifact; start reading at `build.py`."""
