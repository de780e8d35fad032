"""`edgeprune chat`."""

import sys
from pathlib import Path

import click

from edgeprune.cli.app import app_of, app_options

_EPILOG = """\b
Examples:
  edgeprune chat builds/medqa-smollm2-135m-wanda-mix-50pct-q8_0/model.gguf
  echo "What is aspirin for?" | edgeprune chat model.gguf
  echo "Play some jazz" | edgeprune chat model.gguf --task app_actions --grammar
"""


@click.command("chat", epilog=_EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--context", default=2048, show_default=True, help="Context length in tokens.")
@click.option(
    "--max-tokens", default=256, show_default=True, help="Maximum length of an answer in tokens."
)
@click.option(
    "--temperature", default=0.0, show_default=True, help="Sampling temperature; 0 is greedy."
)
@click.option(
    "--repeat-penalty",
    type=click.FloatRange(0, min_open=True),
    default=1.1,
    show_default=True,
    help="Above 1, words that were just said are less likely; small models repeat themselves "
    "without it. Calls of functions are written without it.",
)
@app_options
def command(
    model: Path,
    context: int,
    max_tokens: int,
    temperature: float,
    repeat_penalty: float,
    task: str | None,
    grammar: bool,
) -> None:
    """Chat with a GGUF model, using its chat template. An empty line or Ctrl-D ends the chat."""
    from edgeprune.runtime.llamacpp.chat import Chat

    app = app_of(task, grammar)
    chat = Chat(model, context, app)
    penalty = 1.0 if app and app.functions else repeat_penalty
    terminal = sys.stdin.isatty()
    while True:
        try:
            question = input("you> " if terminal else "")
        except EOFError:
            return
        if not question.strip():
            return
        for piece in chat.answer(question, max_tokens, temperature, penalty):
            click.echo(piece, nl=False)
        click.echo()
