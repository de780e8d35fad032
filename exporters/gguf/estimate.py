"""What a file would hold, of a model of which only names and shapes are known."""

from collections.abc import Iterable, Mapping

from gguf import TensorNameMap

from edgeprune.models.families import by_model_type
from edgeprune.plan.tensors import TensorPlan, block_of
from exporters.base import StorageRequest
from exporters.gguf.plan import PlannedTensor, arch_of, type_of


def estimate(shapes: Mapping[str, tuple[int, ...]], wanted: StorageRequest) -> list[TensorPlan]:
    """Rows for tensors by their names, in transformers' or in GGUF's spelling.

    Whether a head that is stored is tied all the same, only a configuration would tell.
    """
    blocks = 1 + max((block_of(name) or 0 for name in shapes), default=0)
    names = _names_in_file(shapes, blocks)
    tied = "output.weight" not in names.values()
    return [
        PlannedTensor(
            names[source], source, shape, type_of(names[source], shape, wanted, blocks, tied)
        ).row
        for source, shape in shapes.items()
    ]


def _names_in_file(sources: Iterable[str], blocks: int) -> dict[str, str]:
    """By the architecture that has a place for most of them; others keep their own names."""
    known = {family.gguf.name: family for family in by_model_type().values() if family.gguf.name}
    best: dict[str, str] = {}
    for family in known.values():
        places = TensorNameMap(arch_of(family), blocks)
        found = {
            source: name
            for source in sources
            if (name := places.get_name(source, try_suffixes=(".weight", ".bias")))
        }
        best = max(best, found, key=len)
    return {source: best.get(source, source) for source in sources}
