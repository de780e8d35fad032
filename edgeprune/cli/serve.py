"""`edgeprune serve`."""

from pathlib import Path

import click

from edgeprune.cli.app import app_of, app_options

_EPILOG = """\b
Examples:
  edgeprune serve model.packed.gguf
  edgeprune serve model.gguf --port 8081 --api-key "$KEY"
  curl localhost:8080/v1/chat/completions -H 'content-type: application/json' \\
    -d '{"messages": [{"role": "user", "content": "What is aspirin for?"}]}'
  edgeprune serve model.gguf --task app_actions --grammar     # replies are calls, in tool_calls
"""


@click.command("serve", epilog=_EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port to listen on; 0 chooses a free one.",
)
@click.option("--api-key", envvar="EDGEPRUNE_API_KEY", help="Key that requests must carry.")
@click.option("--context", default=2048, show_default=True, help="Context length in tokens.")
@app_options
def command(
    model: Path,
    host: str,
    port: int,
    api_key: str | None,
    context: int,
    task: str | None,
    grammar: bool,
) -> None:
    """Serve a GGUF model, packed or not, with llama-cpp-python's OpenAI-compatible server.

    Calls of functions, which a request or --task brings, are answered in tool_calls.
    """
    from edgeprune.runtime.llamacpp.serve import serve

    serve(model, host, port, api_key, context, app_of(task, grammar))
