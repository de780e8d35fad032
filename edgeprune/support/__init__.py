"""Errors, files, progress and the environment; imports nothing else of edgeprune."""
