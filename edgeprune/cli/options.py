"""Options of `build` and `plan`: the same names, the same help."""

from collections.abc import Callable
from typing import Any

import click

# Flag, type, help. Names and defaults are those of `edgeprune.recipe.Recipe`.
_OPTIONS: list[tuple[str, Any, str]] = [
    ("--model", str, "Hub id, folder, .gguf file or packaged name [smollm2-135m]"),
    ("--task", str, "Shipped task, or a .yaml or .jsonl file (see `edgeprune tasks`)"),
    ("--general", str, "General text: shipped corpus, .yaml or .jsonl [boolq_passages]"),
    ("--target", str, "Artifact format: gguf or onnx [gguf]"),
    (
        "--type",
        str,
        "Weight type. gguf: q8_0, z4_m, q4_0, f16, ... [q8_0]; docs/gguf.md says which keep zeros. "
        "onnx: fp32, fp16, int8, int4 [int8]",
    ),
    (
        "--allow-lossy-zeros",
        bool,
        "Go on with a type that can't hold exact zeros; say the loss [False]",
    ),
    ("--pack", bool, "Also write a packed model, without the zeros [False]"),
    (
        "--method",
        str,
        "magnitude, wanda, ria, wanda_pp, fisher, obs, isc, sparsegpt, rose, alps_fast or alps "
        "[alps_fast]",
    ),
    ("--fusion", str, "Streams: general, task, mix, fused [mix]"),
    ("--sparsity", float, "Share of zeros in pruned matrices; 0 is a plain export [0.5]"),
    ("--pattern", str, "unstructured, or N:M such as 2:4 [unstructured]"),
    ("--allocation", str, "Sparsity over matrices: uniform, atp, owl, rank, map, evolve [uniform]"),
    (
        "--max-loss",
        str,
        "Find the highest sparsity that costs the task at most this, e.g. 2%, with 95 % confidence "
        "(one-sided; --set confidence=0.8)",
    ),
    ("--recover", bool, "Then train the kept weights on the task and on general text [False]"),
    ("--recover-budget", str, "Time for that, such as 90s, 10m or 2h [10m]"),
    ("--samples", int, "Calibration sequences per stream [24]"),
    ("--length", int, "Tokens per sequence [512]"),
    ("--seed", int, "Order of calibration rows [0]"),
    ("--device", str, "auto, cpu or cuda [auto]"),
]


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add every option a recipe can be made from."""
    command = click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE",
        help="Any other name of a recipe, such as eval_rows=500; may be repeated.",
    )(command)  # fmt: skip
    command = click.option(
        "--recipe", "recipe_file", metavar="FILE",
        help="Recipe file, or the name of a shipped one; flags win over it.",
    )(command)  # fmt: skip
    for flag, kind, text in reversed(_OPTIONS):
        is_flag = kind is bool
        command = click.option(flag, type=kind, default=None, help=text, is_flag=is_flag)(command)
    return command


def take_recipe(values: dict[str, Any]) -> Any:
    """Resolve and remove the recipe options from a command's arguments."""
    from edgeprune.recipe.load import resolve

    file, settings = values.pop("recipe_file"), values.pop("settings")
    names = [flag.removeprefix("--").replace("-", "_") for flag, _, _ in _OPTIONS]
    return resolve(file, settings, {name: values.pop(name) for name in names})
