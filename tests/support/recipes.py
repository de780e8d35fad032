"""Settings of builds that take seconds."""

QUICK = {
    "data.samples": 2, "data.length": 64, "measurement.eval_rows": 8,
    "measurement.perplexity_tokens": 512, "measurement.prefill_tokens": 16,
    "measurement.decode_tokens": 4, "measurement.processes": 1, "goal.choose": False,
    "data.chat": "none",
}  # fmt: skip


def settings() -> list[str]:
    """`QUICK` for the command line."""
    return [word for key, value in QUICK.items() for word in ("--set", f"{key}={value}")]
