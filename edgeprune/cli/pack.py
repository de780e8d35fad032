"""`edgeprune pack` and `edgeprune unpack`."""

import json
from pathlib import Path

import click

_PACKED = ".packed.gguf"


@click.command(
    "pack",
    epilog="""\b
Examples:
  edgeprune pack model.gguf                 # writes model.packed.gguf
  edgeprune chat model.packed.gguf          # runs without being unpacked
  edgeprune unpack model.packed.gguf        # writes model.gguf again, bit for bit
  edgeprune pack model.onnx                 # writes model.packed.onnx, which any onnxruntime opens
  edgeprune pack model.onnx --storage coo   # ONNX's own sparse tensors: larger, for other tools
""",
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="[<name>.packed.<ending>]")
@click.option(
    "--storage",
    type=click.Choice(["bitmask", "coo"]),
    default="bitmask",
    show_default=True,
    help="coo: ONNX's sparse_initializer, which adds 8 bytes per kept weight.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the sizes as JSON.")
def command(model: Path, out: Path | None, storage: str, as_json: bool) -> None:
    """Store a GGUF or ONNX file without its zeros, or in the few codes that it uses.

    Pruned to 50 %, a file is about two thirds of its size.
    """
    from edgeprune.formats.packers import packed_name, packer
    from edgeprune.report.words import size_text
    from edgeprune.support.progress import Bars

    module, target = packer(model, storage), out or packed_name(model, storage)
    size = module.total_bytes(model)  # a wrong file is said before a bar is drawn
    with Bars().stage("pack", size) as stage:
        sizes = module.pack(model, target, stage.advance)
    if as_json:
        click.echo(json.dumps({"file": str(target)} | sizes))
        return
    if storage == "coo":
        click.echo(
            "onnxruntime makes these weights dense when it loads them. This file is for tools "
            "that need ONNX's sparse tensors; `edgeprune pack` without --storage makes a "
            "smaller file.",
            err=True,
        )
    click.echo(
        f"{target}: {size_text(sizes['packed_bytes'])} of {size_text(sizes['bytes'])} "
        f"({sizes['packed_bytes'] / sizes['bytes']:.0%}); {sizes['tensors']} tensors at "
        f"{sizes['packed_tensor_bytes'] / sizes['tensor_bytes']:.0%} of their size. Verified: it "
        "unpacks to the same bytes."
    )


@click.command(
    "unpack",
    epilog="""\b
Examples:
  edgeprune unpack model.packed.gguf --out model.gguf
""",
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="[<name>.gguf]")
def unpack(model: Path, out: Path | None) -> None:
    """Restore the original of a packed file, bit for bit, for stock tools."""
    from edgeprune.formats.gguf import packed as packed_file
    from edgeprune.support.errors import UsageError
    from edgeprune.support.progress import Bars

    if model.suffix == ".onnx":
        raise UsageError(f"{model} does not need unpacking: any onnxruntime opens it as it is.")
    target = out or model.with_name(model.name.removesuffix(_PACKED) + ".gguf")
    if target == model or (out is None and target.exists()):
        raise UsageError(f"{target} already exists.", "Choose another file with --out.")
    size = packed_file.PackedFile(model).size
    with Bars().stage("unpack", size) as stage:
        packed_file.unpack(model, target, stage.advance)
    click.echo(f"{target}: restored; the SHA-256 matches the original.")
