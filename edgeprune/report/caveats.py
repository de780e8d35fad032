"""Sentences that keep a reader from taking a number for more than it is."""

from collections.abc import Iterator

import exporters
from edgeprune.manifest import Manifest
from edgeprune.manifest.manifest import Replies, SearchFacts, StoredTensor, TrainingFacts
from edgeprune.manifest.results import Difference, Measured, OnGpu, Results
from edgeprune.recipe.schema import Recipe
from edgeprune.report.words import interval_text, ratio_text, size_text

# Of a file, nearly the dense one's size: nothing worth calling smaller.
_NO_SMALLER = 0.97
# What the kept weights are trained on, by the way of training.
TRAINED_ON = {
    "distill": "to match the dense model's predictions",
    "finetune": "on the task's answers and on general text",
    "virtual": "on the task's answers, virtual tokens alone",
}


def caveats(manifest: Manifest) -> list[str]:
    """What to know beside the results, in the order of the report."""
    return list(_caveats(manifest))


def _caveats(manifest: Manifest) -> Iterator[str]:
    results = manifest.results
    if results.base_near_chance:
        yield _near_chance(results)
    if manifest.search:
        yield _about_search(manifest.search)
    if manifest.training:
        yield from _about_training(manifest.training, manifest.recipe)
    if change := results.difference:
        yield from _about_size(manifest)
        if any(tensor.lost_zeros for tensor in manifest.artifact.pruned_tensors):
            yield _lost_zeros(manifest.artifact.pruned_tensors, manifest.recipe.artifact.type)
        yield from _about_speed(results.artifacts["pruned"], change, _narrow(manifest))
        yield from _about_loss(manifest, change)
    if replies := manifest.artifact.replies:
        yield _about_replies(replies)
    yield from manifest.data.template_problems
    for name, found in results.gpus.items():
        yield f"{name} {about_gpu(found)}."
    if manifest.data.task.warning:
        yield manifest.data.task.warning


def _about_replies(replies: Replies) -> str:
    ties = f"; {replies.ties} are ties, within {replies.tie:g} in logits" if replies.ties else ""
    apart = f", {replies.apart} are further off, by {replies.widest:.1f}" if replies.apart else ""
    return (
        f"Held against transformers with the file's own weights, in {replies.turns} replies: "
        f"{replies.tokens - replies.ties - replies.apart} of {replies.tokens} tokens are its first "
        f"choice{ties}{apart}."
    )


def _near_chance(results: Results) -> str:
    return (
        f"The dense model's accuracy, {interval_text(results.dense.accuracy, 3)}, can't be told "
        f"from chance level ({results.chance_level:.3f}), so accuracy can't show what pruning "
        "costs. Compare the likelihood of the right answer (nats per answer token) instead."
    )


def _about_search(search: SearchFacts) -> str:
    what, each = f"{search.sparsity:.0%} is the highest tested sparsity", "sparsity"
    if search.divergence is not None:
        what, each = "The file is the smallest tried", "file"
    return (
        f"{what} that keeps "
        f"{search.metric.replace('_', ' ')} within {search.bound:.3f} (dense {search.dense:.3f}) "
        f"on {search.rows} rows held out of calibration. Each {each} was judged by the worse end "
        f"of its interval, with {search.confidence:.0%} one-sided confidence. The results below "
        "are on the evaluation rows."
    )


def _about_training(training: TrainingFacts, recipe: Recipe) -> Iterator[str]:
    if rounds := training.rounds:
        amounts = ", ".join(f"{float(amount):.0%}" for amount in rounds)
        yield (
            f"The model was pruned gradually, in {len(rounds) + 1} rounds: it was trained at "
            f"{amounts} sparsity before the last one."
        )
    if found := training.reconstruct:
        yield (
            f"Reconstruction trained {found.submodules} submodules to give the dense model's "
            f"outputs. Their mean relative error fell from {found.before:.3f} to {found.after:.3f}."
        )
    who = "After pruning, the kept weights were trained"
    if not recipe.pruning.sparsity:
        who = "The weights were trained"
    if tuned := training.virtual:
        before, after = tuned.held_out_losses
        yield (
            f"{recipe.training.virtual_tokens} virtual tokens, which the chat template puts before "
            f"every prompt, were trained on the task's answers for {tuned.steps} steps, from "
            f"{before:.3f} to {after:.3f} nats per answer token on held-out rows. What is said of "
            "conversations and general text was measured without them."
        )
    weights = {way: one for way, one in training.trained.items() if way != "virtual"}
    for way, trained in weights.items():
        before, after = trained.held_out_losses
        yield (
            f"{who} for {trained.steps} steps "
            f"{TRAINED_ON[way]}; {100 * trained.task_share:.2g}% of the sequences came from the "
            f"task. The loss on held-out sequences went from {before:.3f} to {after:.3f} nats per "
            "token."
        )
        if trained.rounded:
            yield (
                f"From {recipe.training.grid_from:.0%} of the steps on, {trained.rounded} tensors "
                "were trained on the grid that the file stores (quantisation-aware). The dense "
                "baseline is rounded to nearest."
            )


def _about_size(manifest: Manifest) -> Iterator[str]:
    artifacts = manifest.results.artifacts
    exporter = exporters.get(manifest.recipe.artifact.target)
    before, after = artifacts["dense"].file_bytes, artifacts["pruned"].file_bytes
    if after > _NO_SMALLER * before:
        what = "a narrow code" if _narrow(manifest) else "a zero"
        yield (
            f"{exporter.file_format} stores {what} in as many bytes as any other weight, so the "
            "file is no smaller than the dense one."
        )
    if packed := manifest.packed:
        what = "holds codes at their own width" if _narrow(manifest) else "leaves the zeros out"
        yield (
            f"{packed.file} {what}: it takes {size_text(packed.packed_bytes)}, "
            f"{packed.packed_bytes / before:.0%} of the dense file. It unpacks to exactly the same "
            f"bytes, which was checked, and {exporter.opens_packed}."
        )


def _lost_zeros(tensors: list[StoredTensor], type_name: str) -> str:
    lost = sum(tensor.lost_zeros for tensor in tensors)
    pruned = sum(tensor.zeros for tensor in tensors) + lost
    worst = max(tensors, key=lambda tensor: tensor.lost_zeros)
    return (
        f"{lost:,} of {pruned:,} pruned weights are not zero in the file, because {type_name} "
        f"can't store exact zeros and the recipe allows that. {worst.name} ({worst.type}) lost "
        f"most, {worst.lost_zeros:,}; the manifest lists every tensor."
    )


def _narrow(manifest: Manifest) -> bool:
    """Whether tensors have an alphabet."""
    return any(row.storage.alphabet for row in manifest.plan)


def _about_speed(pruned: Measured, change: Difference, narrow: bool) -> Iterator[str]:
    speeds = (
        f"Decode runs at {ratio_text(change.decode_speed)} and prefill at "
        f"{ratio_text(change.prefill_speed)} the speed of the dense model in stock {pruned.runtime}"
    )
    if placed := pruned.sparse:
        share = placed.packed_bytes / placed.dense_bytes
        how = "in narrow codes" if narrow else "without their zeros"
        yield (
            f"{speeds}. {placed.tensors} tensors run in edgeprune's '{placed.kernel}' kernels; in "
            f"memory, pruned ones stand {how}, and all take {share:.0%} of their size in the file."
        )
    elif pruned.sparse_off:
        yield (
            f"{speeds}, which gains nothing from zeros. edgeprune's own kernels were off: "
            f"{pruned.sparse_off}."
        )
    elif pruned.runtime != "llama.cpp":
        yield f"{speeds}, which gains nothing from zeros."


def _about_loss(manifest: Manifest, change: Difference) -> Iterator[str]:
    training, rise = manifest.training, change.nats_per_answer_token
    if rise.low > 0:
        done = "Pruning" if manifest.recipe.pruning.sparsity else "Calibrated rounding"
        if training:
            done = f"{done} with training" if done == "Pruning" else "Training and rounding"
        yield (
            f"{done} costs {rise.value:.2f} nats per answer token ({rise.low:.2f} to "
            f"{rise.high:.2f}): this model is worse at the task than the dense one."
        )
    if training and training.finetune:
        yield (
            "The dense baseline was not trained on the task, so gates and comparisons show what "
            "the whole build gives, not what sparsity alone costs."
        )
    if manifest.rounded_with_data:
        yield (
            f"{manifest.rounded_with_data} tensors were rounded by GPTQ on the calibration data. "
            "The dense baseline is rounded to nearest."
        )


def about_gpu(found: OnGpu) -> str:
    """What became of a measurement on a GPU; its provider's name goes before it."""
    if found.not_run:
        return f"was not run: {found.not_run.rstrip('.')}"
    if found.failed:
        return f"failed: {found.failed.rstrip('.')}"
    assert found.nats_per_answer_token
    assert found.decode
    return (
        f"gives {found.nats_per_answer_token.value:.2f} nats per answer token and decodes "
        f"{found.decode.median:.0f} tokens/s"
    )
