"""The sparsity metadata of an ONNX model: GGUF's keys as properties of the model."""

import json
from dataclasses import asdict

from edgeprune.formats.metadata import SCHEMA, SparsityMetadata
from edgeprune.support.errors import InputError

_SCHEMA_KEY, _MANIFEST_KEY = "edgeprune.schema", "edgeprune.manifest"


def properties(metadata: SparsityMetadata) -> dict[str, str]:
    """Return the properties to write: everything as one JSON text, and common facts by key."""
    return {
        _SCHEMA_KEY: str(SCHEMA),
        "edgeprune.sparsity.pattern": metadata.pattern,
        "edgeprune.sparsity.target": f"{metadata.target:g}",
        "edgeprune.method": metadata.method,
        "edgeprune.fusion": metadata.fusion,
        "edgeprune.task": metadata.task,
        "edgeprune.base.sha256": metadata.base_sha256,
        _MANIFEST_KEY: metadata.to_json(),
    }


def read_onnx(given: dict[str, str]) -> SparsityMetadata | None:
    """Read the sparsity metadata of a model's properties; None if edgeprune did not write it.

    Raises:
        InputError: the metadata exists but is invalid.
    """
    schema = given.get(_SCHEMA_KEY)
    if schema is None:
        return None
    if schema != str(SCHEMA):
        raise InputError(
            f"The sparsity metadata has schema {schema[:20]}; this version of edgeprune reads "
            f"schema {SCHEMA}.",
            "Upgrade edgeprune: pip install --upgrade edgeprune",
        )
    try:
        found = json.loads(given[_MANIFEST_KEY])
        found.pop("schema")
        metadata = SparsityMetadata(**found)
        kinds = {key: type(value) for key, value in asdict(metadata).items()}
        texts = ("pattern", "method", "fusion", "task", "base_sha256")
        if any(kinds[key] is not str for key in texts) or kinds["recipe"] is not dict:
            raise TypeError(f"{', '.join(texts)} must be strings, and recipe a mapping")
        if not all(type(count) is int for count in metadata.nonzeros.values()):
            raise TypeError("counts must be whole numbers")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"The sparsity metadata is damaged: {error}.") from None
    return metadata
