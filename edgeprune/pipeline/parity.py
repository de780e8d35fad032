"""Greedy replies of an artifact in its runtime, held against transformers with its own weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from edgeprune.pipeline.export import Facts, pruned_model
from edgeprune.pipeline.job import Job, dense_model
from edgeprune.pipeline.sparsify import Sparse
from edgeprune.pipeline.speech import speech
from edgeprune.support.environment import cores
from edgeprune.support.errors import CheckFailed, InputError
from edgeprune.support.files import sha256_json

if TYPE_CHECKING:
    from exporters.base import Model

_VERSION = 1
_TURNS, _TOKENS = 10, 24
# Logits of a runtime that computes with eight bits wander by some tenths: as close as this, two
# tokens are as likely as each other. A wrong layout is off by many.
TIE = 1.0
_MOST_APART = 0.05  # share of the tokens that may be further off, at most


def check_replies(job: Job, sparse: Sparse, artifacts: dict[str, Facts]) -> dict[str, Facts]:
    """Let the build's artifact reply, and ask transformers whether it would have said the same.

    Args:
        job: the build, with the tokenizer of the artifact's model.
        sparse: its weights.
        artifacts: facts about what was exported.

    Returns:
        The facts, the artifact's with ``replies`` as `compare` gives them; without a chat template,
        or where transformers can't open the artifact or has no memory for it (which is noted), as
        they were.

    Raises:
        CheckFailed: more tokens are apart than a runtime's rounding explains; the artifact's files
            are removed.
    """
    name = "pruned" if "pruned" in artifacts else "dense"
    facts = artifacts[name]
    model = dense_model(job.checkpoint)
    if sparse.checkpoint:
        model, _ = pruned_model(job, sparse.checkpoint)
    if _float32(job) > psutil.virtual_memory().available / 2:
        job.run.progress.note(
            "Replies were not held against transformers: the model in float32 takes "
            f"{_float32(job) / 1e9:.1f} GB, more than half the free memory."
        )
        return artifacts
    try:
        key = sha256_json([_VERSION, facts["files"]])
        found = job.run.reuse("replies", key, lambda: _compared(job, model, facts["file"]))
    except CheckFailed:
        for file in facts["files"]:  # what can't be trusted is no result
            (job.run.folder / file).unlink(missing_ok=True)
        raise
    except InputError as error:
        job.run.progress.note(f"Replies were not held against transformers: {error}")
        return artifacts
    return artifacts | ({name: facts | {"replies": found}} if found else {})


def _float32(job: Job) -> int:
    """Bytes of the model as transformers opens it."""
    return 4 * sum(row.size for row in job.file.tensors)


def _compared(job: Job, model: "Model", file: str) -> dict[str, Any]:
    prompts = [one.ids for one in speech(job).prompts[:_TURNS]]
    return compare(job, model, job.run.folder / file, prompts) if prompts else {}


def compare(job: Job, model: "Model", artifact: Path, prompts: list[list[int]]) -> dict[str, Any]:
    """Hold every token of greedy replies against transformers' logits behind the same words.

    So one tie does not hide what follows it.

    Args:
        job: the build.
        model: what the artifact was written from.
        artifact: a file or folder.
        prompts: tokens of turns to reply to.

    Returns:
        ``turns``; ``tokens`` in all; ``ties``, tokens that are not transformers' first choice, but
        within `TIE` of it; ``apart``, those that are further off; ``widest``, the largest
        distance in logits.

    Raises:
        CheckFailed: more tokens are apart than a runtime's rounding explains.
        InputError: transformers can't open the artifact.
    """
    from runtime_tests.child import start

    with start(artifact, cores()) as child, job.run.progress.stage("compare replies", 2) as stage:
        replies = child.call("write", prompts=prompts, max_tokens=_TOKENS)
        stage.advance()
        whole = job.exporter.reopen(artifact, model)
        gaps = [
            gap
            for ids, reply in zip(prompts, replies, strict=True)
            for gap in distances(whole, ids, reply["tokens"])
        ]
        stage.advance()
    apart = sum(gap > TIE for gap in gaps)
    if apart > _MOST_APART * len(gaps):
        raise CheckFailed(
            f"{artifact.name} does not reply as transformers does with the same weights: {apart} "
            f"of {len(gaps)} tokens are not its choice, by up to {max(gaps):.1f} logits.",
            "The model's layout is read otherwise than it was written. Please report it with the "
            "model's name.",
        )
    return {
        "turns": len(prompts),
        "tokens": len(gaps),
        "ties": sum(0 < gap <= TIE for gap in gaps),
        "tie": TIE,
        "apart": apart,
        "widest": max(gaps, default=0.0),
    }


def distances(model: Any, prompt: list[int], reply: list[int]) -> list[float]:
    """Compute how far below the largest logit each token of a reply is.

    Args:
        model: transformers' model.
        prompt: tokens before the reply.
        reply: its tokens.
    """
    import torch

    if not reply:
        return []
    with torch.inference_mode():
        ids = torch.tensor([[*prompt, *reply]])
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    chosen = logits.gather(1, ids[0, len(prompt) :, None])[:, 0]
    return [float(gap) for gap in logits.max(1).values - chosen]
