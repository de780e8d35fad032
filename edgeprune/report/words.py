"""What the numbers mean, in words; the same in the report and on the terminal."""

from typing import Any

_TAKE_PACKED = {
    "gguf": "edgeprune chat and inspect take it",
    "onnx": "any onnxruntime opens it",
}


def size_text(count: float) -> str:
    """Bytes as people read them."""
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"


def verdict(manifest: dict[str, Any]) -> tuple[str, str]:
    """A word and a sentence: whether the build held what it was asked to hold."""
    if manifest["gates"]:
        return "failed", " ".join(manifest["gates"])
    recipe = manifest["recipe"]
    gates = ("max_accuracy_loss", "max_nats_increase", "min_decode_speed")
    if any(recipe[name] is not None for name in gates):
        sure = f"{recipe['confidence']:.0%}"
        return "held", f"Every gate of the recipe held, each with {sure} one-sided confidence."
    return "measured", "No gate was set: figures are reported, nothing was enforced."


def caveats(manifest: dict[str, Any]) -> list[str]:
    """Sentences that keep a reader from taking a number for more than it is."""
    results = manifest["results"]
    words = []
    if results["base_near_guessing"]:
        accuracy = results["artifacts"]["dense"]["accuracy"]
        words.append(
            f"The dense model stands on the guessing line (accuracy {accuracy['value']:.3f}, "
            f"interval {accuracy['low']:.3f} to {accuracy['high']:.3f}, guessing "
            f"{results['guessing_line']:.3f}): accuracy can't show what pruning cost. Read the "
            "likelihood of the right answer instead."
        )
    if search := manifest["search"]:
        words.append(
            f"{search['sparsity']:.0%} is the highest sparsity tried whose "
            f"{search['metric'].replace('_', ' ')} stayed within {search['bound']:.3f} (dense "
            f"{search['dense']:.3f}) on {search['rows']} rows held out of calibration, at the "
            f"worse end of its interval ({search['confidence']:.0%} one-sided confidence for each "
            "sparsity tried); the figures below are on the evaluation rows."
        )
    words += _about_recovery(manifest["recovery"] or {})
    change = results.get("difference")
    if change:
        before, after = (results["artifacts"][n]["file_bytes"] for n in ("dense", "pruned"))
        if after > 0.97 * before:
            words.append(
                f"{manifest['recipe']['target'].upper()} stores a zero in as many bytes as any "
                "weight: the file is no smaller than the dense one."
            )
        if packed := manifest["packed"]:
            words.append(
                f"{packed['file']} leaves the zeros out: {size_text(packed['packed_bytes'])}, "
                f"{packed['packed_bytes'] / before:.0%} of the dense file. It unpacks to the same "
                f"bytes (checked), and {_TAKE_PACKED[manifest['recipe']['target']]} as it is."
            )
        tensors = [t for t in manifest["artifact"]["tensors"] if t["pruned"]]
        if lost := sum(t["lost_zeros"] for t in tensors):
            pruned = sum(t["shape"][0] * t["shape"][1] - t["nonzeros"] for t in tensors) + lost
            worst = max(tensors, key=lambda t: t["lost_zeros"])
            words.append(
                f"{lost:,} of {pruned:,} pruned weights are no longer zero in the file, as was "
                f"allowed: {manifest['recipe']['type']} can't hold them. {worst['name']} "
                f"({worst['type']}) lost {worst['lost_zeros']:,}; the manifest has every tensor."
            )
        words += _about_speed(results["artifacts"]["pruned"], change)
        rise = change["nats_per_answer_token"]
        if rise["low"] > 0:
            done = "Pruning" if manifest["recipe"]["sparsity"] else "Rounding with the data"
            if manifest["recovery"]:
                done = "Training and rounding" if done != "Pruning" else "Pruning, after recovery,"
            words.append(
                f"{done} cost {rise['value']:.2f} nats per answer token "
                f"({rise['low']:.2f} to {rise['high']:.2f}): the model is worse at the task than "
                "the dense one."
            )
        if "finetune" in (manifest["recovery"] or ()):
            words.append(
                "The dense model beside it was not trained on the task: gates and comparisons say "
                "what the build gives, not what sparsity alone costs."
            )
        if manifest["rounded_with_data"]:
            words.append(
                f"{manifest['rounded_with_data']} tensors were rounded with the calibration data; "
                "the dense model beside them is rounded weight by weight."
            )
    for name, found in results.get("gpus", {}).items():
        words.append(f"{name} {_about_gpu(found)}.")
    if manifest["data"]["task"]["warning"]:
        words.append(manifest["data"]["task"]["warning"])
    return words


# What the kept weights are trained towards, by the name of the training.
TRAINED = {
    "distill": "the dense model's predictions",
    "finetune": "the task's answers, and general text beside them",
}


def loss_range(trained: dict[str, Any]) -> tuple[float, float]:
    """Held-out loss before training, and of the weights that were kept."""
    curve, rounded = trained["curve"], bool(trained["rounded"])
    kept = min(point["held_out"] for point in curve if point["rounded"] == rounded)
    return curve[0]["held_out"], kept


def _about_recovery(recovery: dict[str, Any]) -> list[str]:
    words = []
    if rounds := recovery.get("rounds"):
        amounts = ", ".join(f"{float(amount):.0%}" for amount in rounds)
        words.append(
            f"Zeros came in {len(rounds) + 1} rounds: the model was trained at {amounts} before "
            "the last pruning."
        )
    if found := recovery.get("reconstruct"):
        words.append(
            f"{found['submodules']} submodules were reconstructed: their outputs' relative error "
            f"to the dense model's fell from {found['before']:.3f} to {found['after']:.3f} on "
            "average."
        )
    for way, aim in TRAINED.items():
        if way not in recovery:
            continue
        trained = recovery[way]
        before, after = loss_range(trained)
        words.append(
            f"The kept weights were trained for {trained['steps']} steps towards {aim}, "
            f"{100 * trained['task_share']:.2g}% of the sequences from the task: the loss on "
            f"sequences held out went from {before:.3f} to {after:.3f} nats per token."
        )
        if trained["rounded"]:
            words.append(
                f"The last steps trained {trained['rounded']} tensors as the file rounds them; "
                "the dense model beside them is rounded weight by weight."
            )
    return words


def _about_gpu(found: dict[str, Any]) -> str:
    if reason := found.get("not_run"):
        return f"was not run: {reason}"
    if reason := found.get("failed"):
        return f"failed: {reason.rstrip('.')}"
    nats = found["nats_per_answer_token"]["value"]
    return (
        f"gives {nats:.2f} nats per answer token, decode {found['decode']['median']:.0f} tokens/s"
    )


def _about_speed(pruned: dict[str, Any], change: dict[str, Any]) -> list[str]:
    runtime = pruned["runtime"]
    runs = (
        f"Decode runs at {change['decode_speed']:.2f}x, prefill at {change['prefill_speed']:.2f}x "
        f"the dense model in stock {runtime}"
    )
    if placed := pruned["sparse"]:
        share = placed["packed_bytes"] / placed["dense_bytes"]
        return [
            f"{runs}: {placed['tensors']} tensors stand in memory without their zeros, in "
            f"{share:.0%} of their bytes ('{placed['kernel']}' kernels)."
        ]
    if pruned["sparse_off"]:
        return [f"{runs}, which gains nothing from zeros; edgeprune's own kernels were off: "
                f"{pruned['sparse_off']}."]  # fmt: skip
    if runtime != "llama.cpp":
        return [f"{runs}, which gains nothing from zeros."]
    return []


def table(manifest: dict[str, Any]) -> list[tuple[str, ...]]:
    """Rows of the results table: a measure, then one cell for each artifact."""
    artifacts = manifest["results"]["artifacts"].values()

    def interval(value: dict[str, float] | None, digits: int) -> str:
        if value is None:
            return "-"
        return f"{value['value']:.{digits}f} ({value['low']:.{digits}f}-{value['high']:.{digits}f})"

    def speed(value: dict[str, Any]) -> str:
        return f"{value['median']:.1f} ± {value['sd']:.1f}"

    rows = [
        ("accuracy", [interval(a["accuracy"], 3) for a in artifacts]),
        ("nats per answer token", [interval(a["nats_per_answer_token"], 2) for a in artifacts]),
        ("general perplexity", [interval(a["general_perplexity"], 1) for a in artifacts]),
        ("prefill, tokens/s", [speed(a["prefill"]) for a in artifacts]),
        ("decode, tokens/s", [speed(a["decode"]) for a in artifacts]),
        ("file", [size_text(a["file_bytes"]) for a in artifacts]),
        ("peak memory", [size_text(a["peak_memory_bytes"]) for a in artifacts]),
    ]
    return [(name, *cells) for name, cells in rows]
