"""Prune one block at a time, or the output head: statistics, pruning, rounding."""

from pathlib import Path

import torch
from torch import Tensor, nn

from edgeprune.engine.runner import BlockRunner
from edgeprune.engine.sensitivity.dense import DenseStatistics, gather_dense
from edgeprune.engine.sensitivity.fisher import Fisher, gather_fisher
from edgeprune.engine.store import PrunedTensors, TensorRecord
from edgeprune.engine.token_weights import stream_weights
from edgeprune.models.blocks import WeightView, weight_matrices
from edgeprune.models.feed_forward import feed_forwards
from edgeprune.models.loading import stored_names
from edgeprune.models.stored import stored_tensors
from edgeprune.planning.tensors import ModelPlan, block_of
from edgeprune.pruning.fusion import FusedStatistics
from edgeprune.pruning.gram import DAMPING
from edgeprune.pruning.matrix import Pruning, prune_matrix, scores
from edgeprune.pruning.statistics import InputStatistics
from edgeprune.pruning.updates.permute import channel_order
from edgeprune.quantization.gptq import rounded
from edgeprune.quantization.joint import pruned_for
from edgeprune.support.errors import CheckFailed, InputError
from edgeprune.support.progress import Progress


class BlockPruner:
    """Prunes the blocks of one model.

    ``stored`` holds the names of the checkpoint's tensors. With ``to_train``, what is kept of
    rounded matrices is their weights before rounding (`edgeprune.quantization.gptq.Rounded`), and
    later blocks see them rounded all the same.
    """

    def __init__(
        self,
        runner: BlockRunner,
        pruning: Pruning,
        plan: ModelPlan,
        stored: frozenset[str],
        folder: Path,
        progress: Progress,
        dense_statistics: Path | None,
        to_train: bool = False,
    ):
        self._runner = runner
        self._pruning = pruning
        self._plan = plan
        self._grids, self._masked = plan.grids, plan.masked
        self._stored = stored
        self._progress = progress
        self._to_train = to_train
        # What is neither pruned nor rounded here needs importances alone.
        of_blocks = [name for name in {*self._grids, *self._masked} if block_of(name) is not None]
        self._needs_gram = bool(pruning.needs_gram and plan.sparsity) or bool(of_blocks)
        self._head_needs_gram = self._needs_gram or bool(self._grids)
        self._fisher_file = folder / "fisher.safetensors"
        self._fisher: Fisher | None = None
        if pruning.how.gradient == "model":
            self._fisher = gather_fisher(
                runner.model, runner.blocks, runner.streams, runner.device, runner.dtype,
                self._fisher_file, progress,
            )  # fmt: skip
        self._weights = stream_weights(runner, pruning)
        self._dense: DenseStatistics | None = None
        if dense_statistics:
            self._dense = gather_dense(runner, self._weights, dense_statistics, progress)

    def clean_up(self) -> None:
        """Remove files that only an unfinished run needs."""
        self._fisher_file.unlink(missing_ok=True)

    @torch.no_grad()
    def prune_block(self, index: int, hidden: dict[str, Tensor]) -> tuple[nn.Module, PrunedTensors]:
        """Prune one block, and return the block to go on with and the result to keep."""
        source, block = self._runner.blocks[index], self._runner.load(index)
        model, prefix = self._runner.model, f"{self._runner.prefix}.{index}."
        matrices = weight_matrices(source)
        names = stored_names(model, prefix, source, matrices, self._stored)
        inputs = self._inputs(index, block, matrices, hidden)
        moved: list[str] = []
        if self._pruning.permute:
            inputs, moved = self._permute(source, block, matrices, inputs)
        records: list[TensorRecord] = []
        calibration: dict[str, Tensor] = {}
        for name, matrix in matrices.items():
            pruned, kept, record, left = self._prune_matrix(
                names[name], matrix.read(source), inputs[name]
            )
            matrix.write(source, kept)
            matrix.write(block, pruned)
            records.append(record)
            calibration |= left
        parameters = sorted({matrix.parameter for matrix in matrices.values()} | set(moved))
        tensors = {prefix + name: source.get_parameter(name).data for name in parameters}
        found = stored_tensors(model, tensors, self._stored)
        return block, PrunedTensors(found, records, calibration)

    @torch.no_grad()
    def prune_head(self, name: str, hidden: dict[str, Tensor]) -> PrunedTensors:
        """Prune or round the output head with the statistics of its input."""
        if self._pruning.how.gradient:
            raise InputError(
                f"Method '{self._pruning.method}' needs gradients, which are not available for "
                "the output head.",
                "Remove pruning.head from the recipe, or choose another --method.",
            )
        seen = {
            stream: self._runner.head_statistics(
                stream, states, self._weights[stream], self._head_needs_gram
            )
            for stream, states in hidden.items()
        }
        inputs = self._join(seen)
        weight = self._runner.model.get_output_embeddings().weight
        _, kept, record, left = self._prune_matrix(name, weight, inputs)
        return PrunedTensors({name: kept}, [record] if self._pruning.head else [], left)

    def _inputs(
        self,
        index: int,
        block: nn.Module,
        matrices: dict[str, WeightView],
        hidden: dict[str, Tensor],
    ) -> dict[str, FusedStatistics]:
        """Gather both streams' statistics; matrices that read the same input share them."""
        if self._dense:
            seen = self._dense.read(index, list(self._runner.streams))
        else:
            seen = {
                stream: self._runner.statistics(
                    index, block, matrices, states, self._weights[stream], self._needs_gram
                )
                for stream, states in hidden.items()
            }
        shared: dict[tuple[int, ...], FusedStatistics] = {}
        inputs = {}
        for name in matrices:
            own = {stream: statistics[name] for stream, statistics in seen.items()}
            key = tuple(map(id, own.values()))
            inputs[name] = shared.setdefault(key, self._join(own))
        if self._pruning.how.gradient is None:
            return inputs
        gradients = {
            stream: self._gradients(index, block, matrices, stream, states)
            for stream, states in hidden.items()
        }
        return {
            name: two.with_gradients({s: of[name] for s, of in gradients.items()})
            for name, two in inputs.items()
        }

    def _join(self, seen: dict[str, InputStatistics]) -> FusedStatistics:
        return FusedStatistics(seen, self._pruning.fusion)

    def _gradients(
        self,
        index: int,
        block: nn.Module,
        matrices: dict[str, WeightView],
        stream: str,
        states: Tensor,
    ) -> dict[str, Tensor]:
        if self._fisher is None:
            with torch.enable_grad():
                return self._runner.gradients(index, block, matrices, stream, states)
        prefix = f"{self._runner.prefix}.{index}."
        return {
            name: matrix.view(self._fisher.read(stream, prefix + matrix.parameter)).to(
                self._runner.device
            )
            for name, matrix in matrices.items()
        }

    def _permute(
        self,
        source: nn.Module,
        block: nn.Module,
        matrices: dict[str, WeightView],
        inputs: dict[str, FusedStatistics],
    ) -> tuple[dict[str, FusedStatistics], list[str]]:
        """Reorder the hidden channels of feed-forward networks, in both copies of the block.

        Returns:
            The statistics in the new order, and the names of the biases that were reordered too.
        """
        inputs, moved = dict(inputs), []
        for network in feed_forwards(matrices):
            reader = matrices[network.reader].read(source).to(self._runner.device).float()
            importance = scores(reader, inputs[network.reader], self._pruning.how)
            order = channel_order(importance, self._plan.pattern)
            network.reorder(source, matrices, order.cpu())
            network.reorder(block, matrices, order)
            inputs[network.reader] = inputs[network.reader].reordered(order)
            if self._pruning.how.gradient:
                for maker in network.makers:
                    seen = inputs[maker].seen
                    rows = {stream: s.gradient[order] for stream, s in seen.items()}
                    inputs[maker] = inputs[maker].with_gradients(rows)
            moved += network.biases(source, matrices)
        return inputs, moved

    def _prune_matrix(
        self, name: str, weight: Tensor, inputs: FusedStatistics
    ) -> tuple[Tensor, Tensor, TensorRecord, dict[str, Tensor]]:
        """Prune and round a matrix; returns it as the next block sees it, and as it is kept."""
        if not torch.isfinite(weight).all():
            raise InputError(
                f"The weight {name} contains NaN or infinite values.",
                "Check the weights: the checkpoint may be damaged.",
            )
        if not torch.isfinite(inputs.joint.second_moment).all():
            raise InputError(
                f"The inputs of {name} contain NaN or infinite values.",
                "Check the model: an earlier layer overflows, or its weights are damaged.",
            )
        pruning = self._pruning
        budget = self._plan.budget(name, weight.numel())
        if not budget.pattern.fits(weight.shape[1]):
            raise InputError(
                f"{name} has {weight.shape[1]} inputs, which do not divide into groups of the "
                f"pattern {budget.pattern.name}.",
                "Choose another --pattern.",
            )
        dense = weight.to(self._runner.device).float().contiguous()  # a transposed view may come in
        pruned = prune_matrix(dense, inputs, pruning, budget)
        if not torch.isfinite(pruned).all():
            raise CheckFailed(
                f"Pruning {name} with {pruning.method} gave NaN or infinite values.",
                "Try another --method, or more calibration tokens (--samples, --length).",
            )
        if (grid := self._masked.get(name)) and budget.zeros and inputs.joint.gram is not None:
            pruned = pruned_for(dense, pruned, inputs.joint.gram, grid, budget)
        nonzeros, rounded_to_zero, kept = int(torch.count_nonzero(pruned)), None, pruned
        left = {f"{name}.importance": inputs.joint.second_moment.cpu().clone()}
        if grid := self._grids.get(name):
            found = rounded(pruned, inputs.joint.gram, grid)
            pruned, kept = found.weight, found.before if self._to_train else found.weight
            left[f"{name}.scales"] = found.scales.half().cpu()
            if not self._to_train:
                rounded_to_zero = nonzeros - int(torch.count_nonzero(pruned))
        error = None
        if inputs.joint.gram is not None:
            error = relative_error(dense, pruned, inputs.joint.gram.matrix)
            if (damping := inputs.damping()) > DAMPING:
                self._progress.note(
                    f"{name}: the Gram matrix of its input needed damping {damping:g} instead of "
                    f"{DAMPING:g} to be inverted. More calibration tokens would help."
                )
        rows, columns = weight.shape
        record = TensorRecord(
            name=name,
            shape=(rows, columns),
            nonzeros=nonzeros,
            exclusive=inputs.exclusive_shares(),
            error=error,
            rounded_to_zero=rounded_to_zero,
        )
        pruned, kept = (one.to(weight.dtype).cpu() for one in (pruned, kept))
        return pruned, kept, record, left


def relative_error(dense: Tensor, pruned: Tensor, gram: Tensor) -> float:
    """Compute ``tr (ΔW H ΔWᵀ) / tr (W H Wᵀ)``: the share of a layer's output power that changed."""
    change = dense - pruned
    lost = ((change @ gram) * change).sum()
    return (lost / ((dense @ gram) * dense).sum().clamp_min(1e-30)).item()
