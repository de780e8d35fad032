"""`edgeprune runtime` and its subcommands."""

import json
import shlex

import click

_EPILOG = """\b
Examples:
  edgeprune runtime
  edgeprune runtime --json | jq .on
  EDGEPRUNE_KERNEL=avx2 edgeprune runtime    # as on a processor without AVX-512
  EDGEPRUNE_SPARSE=0 edgeprune chat model.gguf    # the model as stock llama.cpp runs it
  eval "$(edgeprune runtime env)"    # so that llama-server and others run sparse weights, too
"""


_ENV_EPILOG = """\b
Examples:
  eval "$(edgeprune runtime env)"
  llama-server -m builds/NAME/model.gguf    # prints how many tensors run packed
  env "$(edgeprune runtime env | cut -d' ' -f2)" llama-bench -m model.gguf
"""


@click.group("runtime", epilog=_EPILOG, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Show whether sparse weights are on here and with which kernels, or why they are off."""
    if context.invoked_subcommand is None:
        _show(as_json)


@command.command("path")
def path_command() -> None:
    """Print the path of the library that other programs with llama.cpp load."""
    from edgeprune.runtime import plugin

    click.echo(plugin.path())


@command.command("env", epilog=_ENV_EPILOG)
def env_command() -> None:
    """Print the variable that makes llama.cpp load that library, as a line for the shell.

    It is for programs that load their backends as libraries, as llama.cpp's releases for Linux do.
    Tried with node-llama-cpp alone. A program that is one static file does not load it.
    """
    from edgeprune.runtime import plugin

    for name, value in plugin.environment().items():
        click.echo(f"export {name}={shlex.quote(value)}")


def _show(as_json: bool) -> None:
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
