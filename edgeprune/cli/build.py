"""`edgeprune build`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli.options import recipe_options, take_recipe

if TYPE_CHECKING:
    from edgeprune.manifest import Manifest

_EPILOG = """\b
Examples:
  edgeprune build --task medqa --target gguf
  edgeprune build --task medqa --size 60MB
  edgeprune build --task medqa --size 90MB --runtime stock
  edgeprune build --task medqa --sparsity 0.5
  edgeprune build --task arc_easy --pattern 2:4 --type q4_0
  edgeprune build --task medqa --target onnx --type int8 --pack
  edgeprune build --task mine.jsonl --model HuggingFaceTB/SmolLM2-360M-Instruct
  edgeprune build --recipe medqa-demo --set measurement.eval_rows=1000

\b
Run the same command again to resume; stages with unchanged inputs are reused.
Exit codes: 0 success, 1 failed check, 2 usage error, 3 invalid input, 4 machine error, 70 bug,
130 interrupted.
"""


@click.command("build", epilog=_EPILOG)
@recipe_options
@click.option("--out", type=click.Path(path_type=Path), help="Build folder. [builds/<name>]")
@click.option(
    "--replace", is_flag=True, help="Overwrite the build of another recipe in that folder."
)
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def command(out: Path | None, replace: bool, dry_run: bool, as_json: bool, **values: Any) -> None:
    """Compress a model for a task, export it, verify the file and measure it.

    Without settings for pruning and types, or with a goal such as --size, every tensor's storage
    is chosen, and the model is trained on the grid of the file.
    """
    from edgeprune.recipe.goal import decided

    recipe = decided(take_recipe(values))
    if dry_run:
        from edgeprune.cli.plan import show

        show(recipe, out, as_json)
        return
    from edgeprune.pipeline.build import build
    from edgeprune.pipeline.folders import default_folder
    from edgeprune.support.errors import GateFailed
    from edgeprune.support.launch import group
    from edgeprune.support.progress import Bars

    folder = (out or default_folder(recipe)).expanduser()
    with group(recipe.model.device):
        try:
            made = build(recipe, folder, Bars(), replace)
        except GateFailed as failed:
            _report(failed.manifest, folder, as_json)
            raise
    if made:  # of several processes, the first one's
        _report(made.manifest, folder, as_json)


def _report(manifest: "Manifest", folder: Path, as_json: bool) -> None:
    if as_json:
        from edgeprune.support.files import json_text

        click.echo(json_text(manifest.to_json()))
        return
    from edgeprune.cli.summary import print_summary

    print_summary(manifest, folder)
