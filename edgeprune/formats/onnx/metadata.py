"""The sparsity metadata of an ONNX model: GGUF's keys as properties of the model."""

from edgeprune.formats.metadata import SCHEMA, SparsityMetadata, check_schema, from_json
from edgeprune.support.errors import InputError

_SCHEMA_KEY, _MANIFEST_KEY = "edgeprune.schema", "edgeprune.manifest"


def read_onnx(given: dict[str, str]) -> SparsityMetadata | None:
    """Read the sparsity metadata of a model's properties; None if edgeprune did not write it.

    Raises:
        InputError: the metadata exists but is invalid.
    """
    schema = given.get(_SCHEMA_KEY)
    if schema is None:
        return None
    check_schema(SCHEMA if schema == str(SCHEMA) else schema)
    if _MANIFEST_KEY not in given:
        raise InputError(f"The sparsity metadata is damaged: it lacks {_MANIFEST_KEY}.")
    return from_json(given[_MANIFEST_KEY])
