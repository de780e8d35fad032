"""The sparsity metadata of an artifact (DESIGN.md, "Sparsity metadata")."""

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from edgeprune.support.errors import InputError

if TYPE_CHECKING:
    from edgeprune.formats.gguf.file import GgufFile

SCHEMA = 1


@dataclass(frozen=True)
class SparsityMetadata:
    """Facts about zeros that travel inside the artifact.

    Attributes:
        pattern: ``unstructured``, ``2:4``, ...
        target: requested sparsity over the pruned tensors.
        method: pruning method.
        fusion: fusion mode of the two streams.
        task: the task that the model was pruned for.
        recipe: the resolved recipe.
        base_sha256: hash of the base checkpoint's weights.
        nonzeros: non-zero weights by pruned tensor's name, counted in the written bytes.
    """

    pattern: str
    target: float
    method: str
    fusion: str
    task: str
    recipe: dict[str, Any]
    base_sha256: str
    nonzeros: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return everything as one JSON text, for readers that show no arrays."""
        return json.dumps({"schema": SCHEMA, **asdict(self)})


def read_gguf(file: "GgufFile") -> SparsityMetadata | None:
    """Read the sparsity metadata of a GGUF file; None if edgeprune did not write it.

    Raises:
        InputError: the metadata exists but is invalid.
    """
    value = file.get
    schema = value("edgeprune.schema")
    if schema is None:
        return None
    if not isinstance(schema, int):
        raise InputError("The sparsity metadata is damaged: its schema is not a number.")
    if schema != SCHEMA:
        raise InputError(
            f"The sparsity metadata has schema {schema}; this version of edgeprune reads schema "
            f"{SCHEMA}.",
            "Upgrade edgeprune: pip install --upgrade edgeprune",
        )
    try:
        texts = ("sparsity.pattern", "method", "fusion", "task", "recipe", "base.sha256")
        if not all(isinstance(value(f"edgeprune.{name}"), str) for name in texts):
            raise TypeError(f"{', '.join(texts)} must be strings")
        names = value("edgeprune.sparsity.tensors", [])
        counts = value("edgeprune.sparsity.nonzeros", [])
        return SparsityMetadata(
            pattern=value("edgeprune.sparsity.pattern"),
            target=float(value("edgeprune.sparsity.target")),
            method=value("edgeprune.method"),
            fusion=value("edgeprune.fusion"),
            task=value("edgeprune.task"),
            recipe=json.loads(value("edgeprune.recipe")),
            base_sha256=value("edgeprune.base.sha256"),
            nonzeros=dict(zip(names, map(int, counts), strict=True)),
        )
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"The sparsity metadata is damaged: {error}.") from None
