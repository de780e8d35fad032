"""llama-cpp-python's OpenAI-compatible server, with sparse weights on."""

import socket
from pathlib import Path

import click

from edgeprune.formats.gguf.packed import open_any
from edgeprune.runtime import enable
from edgeprune.runtime.llamacpp.calls import App, CallHandler
from edgeprune.support.environment import cores
from edgeprune.support.errors import InputError, MachineError
from edgeprune.support.extras import load, need

_CALLS = "edgeprune-calls"  # our handler's name in llama-cpp-python
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(
    path: Path, host: str, port: int, api_key: str | None, context: int, app: App | None = None
) -> None:
    """Serve a model until the process is interrupted.

    Args:
        path: a GGUF file, packed or not.
        host: address to listen on.
        port: port to listen on.
        api_key: key that requests must carry; None: none, with a warning if others can connect.
        context: context length in tokens.
        app: functions that the model may call, beside those that requests bring.

    Raises:
        InputError: the model cannot be used.
        MachineError: the port is in use, or the server's libraries are not installed.
    """
    has_template = "tokenizer.chat_template" in open_any(path)
    need("llama_cpp", "fastapi", "sse_starlette", "uvicorn")
    server, uvicorn = load("llama_cpp.server.app"), load("uvicorn")
    settings = load("llama_cpp.server.settings")
    if host not in _LOOPBACK and not api_key:
        click.echo(
            f"Warning: other machines may be able to reach {host}, and no --api-key is set.",
            err=True,
        )
    enable()
    _register(CallHandler(app or App()))
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
            bound.listen()  # so that whoever reads the line below is not refused
        except OSError as error:
            raise MachineError(
                f"Cannot listen on {host}:{port}: {error.strerror or error}.",
                "Choose another --port.",
            ) from None
        try:
            served = server.create_app(
                server_settings=settings.ServerSettings(host=host, port=port, api_key=api_key),
                model_settings=[
                    settings.ModelSettings(
                        model=str(path),
                        n_ctx=context,
                        n_threads=cores(),
                        n_threads_batch=cores(),
                        verbose=False,
                        chat_format=_CALLS if has_template else None,
                    )
                ],
            )
        except ValueError as error:
            raise InputError(f"llama.cpp cannot load {path}: {error}.") from None
        shown = f"[{host}]" if ":" in host else host
        click.echo(
            f"http://{shown}:{bound.getsockname()[1]}/v1 (docs: /docs); press Ctrl-C to stop"
        )
        uvicorn.Server(uvicorn.Config(served, log_level="warning")).run(sockets=[bound])


def _register(handler: CallHandler) -> None:
    """Make a handler known to llama-cpp-python."""
    known = load("llama_cpp.llama_chat_format").LlamaChatCompletionHandlerRegistry()
    known.register_chat_completion_handler(_CALLS, handler, overwrite=True)
