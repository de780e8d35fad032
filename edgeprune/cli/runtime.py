"""`edgeprune runtime`."""

import json

import click

_EPILOG = """\b
Examples:
  edgeprune runtime
  edgeprune runtime --json | jq .on
  EDGEPRUNE_KERNEL=avx2 edgeprune runtime    # as on a processor without AVX-512
  EDGEPRUNE_SPARSE=0 edgeprune chat model.gguf    # the model as stock llama.cpp runs it
"""


@click.command("runtime", epilog=_EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(as_json: bool) -> None:
    """Show whether sparse weights are on here and with which kernels, or why they are off."""
    from dataclasses import asdict
    from importlib.metadata import version

    from edgeprune.runtime import status
    from edgeprune.runtime.llamacpp.adapter import CHECKED
    from edgeprune.support.environment import describe
    from edgeprune.support.extras import need

    need("llama_cpp")
    found, machine = status(), describe()
    if as_json:
        click.echo(json.dumps(asdict(found) | {"checked": CHECKED, "machine": machine}))
        return
    others = [name for name in found.kernels if name != found.kernel]
    for name, text in (
        ("sparse weights", f"{'on' if found.on else 'off'}: {found.reason}"),
        ("kernels", f"{found.kernel or 'none'} ({', '.join(others) or 'none'} also available)"),
        ("processor", f"{machine['processor']}, {machine['cores']} cores"),
        ("llama-cpp-python", f"{version('llama-cpp-python')} (tested: {', '.join(CHECKED)})"),
    ):
        click.echo(f"{name:<18}{text}")
