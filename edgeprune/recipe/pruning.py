"""The recipe's section ``pruning``: which weights become zero, and what makes up for them."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from edgeprune.planning.allocation import ALLOCATIONS
from edgeprune.planning.patterns import UNSTRUCTURED
from edgeprune.pruning.methods import METHODS
from edgeprune.recipe.checks import (
    base_60,
    fixed_sparsity,
    known_name,
    known_pattern,
    share_or_pattern,
    with_unit,
)
from edgeprune.recipe.section import Section, flag
from edgeprune.recipe.units import share

# `edgeprune.pruning.fusion` defines them; their names stand here so that `--help` needs no torch.
FUSION_MODES = ("general", "task", "mix", "fused")


class Fusion(Section):
    """How the two calibration streams are joined; formulas: `edgeprune.pruning.fusion`."""

    # `mix` because `fused` wins on one task and loses more on another: docs/measured/fusion.md.
    mode: Annotated[str, known_name("fusion", FUSION_MODES)] = flag(
        "mix", f"streams that decide what is pruned: {', '.join(FUSION_MODES)}", "fusion"
    )
    tau: float = Field(
        0.8, ge=0, le=1, description="threshold between shared and exclusive channels"
    )
    tau_mode: Literal["quantile", "fixed"] = Field(
        "quantile",
        description="whether tau is a quantile over the layer's channels or a fixed distance",
    )
    task_share: float = Field(
        0.5, ge=0, le=1, description="λ: weight of the task stream in shared channels"
    )
    task_weight: float = Field(
        1.0, gt=0, description="w_T: weight of the task stream in exclusive channels"
    )
    gram: Literal["scaled", "masked"] = Field(
        "scaled",
        description=(
            "fused, with methods that solve for weights: solve on a fused Gram matrix, or fuse "
            "the mask and update weights on the mix"
        ),
    )


class Allocation(Section):
    """The distribution of unstructured sparsity over matrices."""

    kind: Annotated[str, known_name("allocation", ALLOCATIONS)] = flag(
        "uniform", f"distribution of sparsity over matrices: {', '.join(ALLOCATIONS)}", "allocation"
    )
    spread: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="for atp, owl and rank: how far a matrix' sparsity may be from the target",
    )
    map: dict[str, Annotated[float | str, BeforeValidator(share_or_pattern)]] = Field(
        {},
        description="for map: sparsity, or a pattern such as '2:4', by a regular expression on the "
        "matrix' name",
    )

    @model_validator(mode="after")
    def _map_goes_with_its_kind(self) -> Self:
        if (self.kind == "map") != bool(self.map):
            raise ValueError("allocation 'map' and pruning.allocation.map go together")
        return self


class Pruning(Section):
    """Which weights become zero, and how the kept ones are updated."""

    method: Annotated[str, known_name("method", METHODS)] = flag(
        "alps_fast", f"pruning method: {', '.join(METHODS)}"
    )
    sparsity: float = flag(
        0.5, "share of zeros in the pruned matrices; 0: export without pruning", ge=0, lt=1
    )
    pattern: Annotated[str, AfterValidator(known_pattern), BeforeValidator(base_60)] = flag(
        UNSTRUCTURED.name, "unstructured (per output row) or N:M, N kept of every M inputs"
    )
    max_loss: Annotated[str, with_unit(share)] | None = flag(
        None,
        "find the smallest file that costs the task at most this, such as 2%, at the confidence "
        "that gates.confidence sets; of a set type or method, the highest sparsity",
    )
    fusion: Fusion = Field(Fusion(), description="how the two calibration streams are joined")
    allocation: Allocation = Field(Allocation(), description="spread of sparsity over matrices")
    swaps: bool = Field(False, description="refine the mask with SparseSwaps")
    refit: bool = Field(False, description="refit the kept weights by least squares")
    permute: bool = Field(
        False,
        description=(
            "N:M only: reorder hidden channels of feed-forward networks (the output stays the same)"
        ),
    )
    head: bool = Field(
        False, description="also prune the output head (a tied head is also the embedding)"
    )
    sink_positions: int = Field(
        0, ge=0, description="number of first positions of each sequence that statistics leave out"
    )
    high_perplexity_weight: float = Field(
        1.0, ge=0, le=1, description="factor, in statistics, on tokens with a perplexity above 2.5"
    )

    @model_validator(mode="after")
    def _options_fit_the_pattern(self) -> Self:
        sparsity = fixed_sparsity(self.pattern)
        if sparsity is None:
            if self.permute:
                raise ValueError(
                    f"permute has no effect on {self.pattern} pruning: set an N:M pattern"
                )
            return self
        if self.allocation.kind != "uniform":
            raise ValueError(
                f"pattern {self.pattern} gives every matrix the same sparsity: allocation "
                f"'{self.allocation.kind}' needs pattern '{UNSTRUCTURED.name}'"
            )
        if self.max_loss:
            raise ValueError(
                f"pattern {self.pattern} fixes the sparsity: max_loss cannot search for it"
            )
        if "sparsity" in self.model_fields_set and abs(self.sparsity - sparsity) > 1e-9:
            raise ValueError(
                f"pattern {self.pattern} means sparsity {sparsity:g}, but sparsity is "
                f"{self.sparsity:g}: leave one out"
            )
        object.__setattr__(self, "sparsity", sparsity)
        return self
