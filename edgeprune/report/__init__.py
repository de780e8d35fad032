"""The report people read: one offline HTML file."""

from edgeprune.report.page import write

__all__ = ["write"]
