"""The record of a build: what went in, what was decided, what came out."""

from edgeprune.manifest.manifest import SCHEMA, Manifest, read

__all__ = ["SCHEMA", "Manifest", "read"]
