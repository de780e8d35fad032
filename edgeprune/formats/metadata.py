"""The sparsity metadata of an artifact (docs/design.md, "Sparsity metadata")."""

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

    def properties(self) -> dict[str, str]:
        """Everything as one JSON text, and what people look for under its own key."""
        return {
            "edgeprune.schema": str(SCHEMA),
            "edgeprune.sparsity.pattern": self.pattern,
            "edgeprune.sparsity.target": f"{self.target:g}",
            "edgeprune.method": self.method,
            "edgeprune.fusion": self.fusion,
            "edgeprune.task": self.task,
            "edgeprune.base.sha256": self.base_sha256,
            "edgeprune.manifest": self.to_json(),
        }


def check_schema(schema: object) -> None:
    """Refuse metadata of another version than ours.

    Raises:
        InputError: naming both.
    """
    if schema != SCHEMA:
        raise InputError(
            f"The sparsity metadata has schema {str(schema)[:20]}, this edgeprune reads {SCHEMA}.",
            "Upgrade edgeprune.",
        )


def from_json(text: str) -> SparsityMetadata:
    """What `SparsityMetadata.to_json` gave.

    Raises:
        InputError: it makes no sense, or is of another version.
    """
    try:
        found = json.loads(text)
        check_schema(found.pop("schema"))
        metadata = SparsityMetadata(**found)
        kinds = {key: type(value) for key, value in asdict(metadata).items()}
        texts = ("pattern", "method", "fusion", "task", "base_sha256")
        if any(kinds[key] is not str for key in texts) or kinds["recipe"] is not dict:
            raise TypeError(f"{', '.join(texts)} must be texts, recipe a mapping")
        if not all(type(count) is int for count in metadata.nonzeros.values()):
            raise TypeError("counts must be whole numbers")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"The sparsity metadata is damaged: {error}.") from None
    return metadata


def read_storage(file: "GgufFile") -> dict[str, str]:
    """Read the alphabets of a GGUF file's tensors, by their names: `edgeprune.formats.forms`.

    Raises:
        InputError: the keys exist but are invalid.
    """
    names, texts = (file.get(f"edgeprune.storage.{key}", []) for key in ("tensors", "codes"))
    known = all(
        isinstance(one, list) and all(isinstance(text, str) for text in one)
        for one in (names, texts)
    )
    if not known or len(names) != len(texts):
        raise InputError("The storage metadata is damaged: it is no list of names and alphabets.")
    return dict(zip(names, texts, strict=True))


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
        raise InputError("The sparsity metadata is damaged: its schema is no number.")
    check_schema(schema)
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
