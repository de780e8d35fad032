"""What pruned models still say: writes docs/measured/assistant.md.

    python benchmarks/assistant.py --minutes 60

The same builds with and without conversations in the general stream; each is a build as users make
it, in ablations/assistant, and finished ones are only read.
"""

import time
from pathlib import Path
from typing import Any

import click

from edgeprune import Recipe, build
from edgeprune.manifest import Manifest, read
from edgeprune.manifest.results import Measured
from edgeprune.report.words import interval_text
from edgeprune.runtime.llamacpp.chat import Chat
from edgeprune.support.environment import sentence
from edgeprune.support.files import read_json, write_json
from edgeprune.support.progress import Bars

_PAGE, _WORK = Path("docs/measured/assistant.md"), Path("ablations/assistant")
_SHARES = (0.0, 0.5)  # of conversations in the general stream
_KINDS: dict[str, dict[str, Any]] = {
    "50 % zeros, Q8_0": {"pruning.sparsity": 0.5},
    "chosen, trained for two minutes": {},
    "50 % zeros, Q8_0, trained for eight minutes": {
        "pruning.sparsity": 0.5, "training.enabled": True, "training.budget": "8m",
    },
}  # fmt: skip
_HEADINGS = (
    "build", "conversations", "divergence on chat, nats", "99 %", "same top token",
    "divergence on text", "nats / answer token", "perplexity", "answers that loop / copy / end",
)  # fmt: skip
_QUESTIONS = (
    "What is aspirin for?", "Name three symptoms of anemia.", "What should I do about a headache?",
)  # fmt: skip


@click.command()
@click.option("--task", default="medqa")
@click.option("--minutes", default=0.0, help="begin no new build after so many minutes")
@click.option("--out", type=click.Path(path_type=Path), default=_PAGE)
def main(task: str, minutes: float, out: Path) -> None:
    deadline, rows = time.monotonic() + 60 * minutes, []
    for kind, settings in _KINDS.items():
        for share in _SHARES:
            folder = _WORK / f"{task}-{kind}-{share:g}".replace(" ", "-").replace(",", "")
            if not (folder / "manifest.json").exists() and time.monotonic() < deadline:
                build(Recipe.of(settings | {"data.chat_share": share}, task=task), folder, Bars())
            if (folder / "manifest.json").exists():
                rows.append((kind, share, read(folder), _answers(folder)))
    out.write_text("\n".join(_page(task, rows)), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _answers(folder: Path) -> list[str]:
    """The model's answers to three questions, in its plain or packed file."""
    known = read_json(folder / "said.json")
    if known is None:
        packed = folder / "model.packed.gguf"
        path = packed if packed.exists() else folder / "model.gguf"
        known = ["".join(Chat(path, 1024).answer(text, 96, 0.0)) for text in _QUESTIONS]
        write_json(folder / "said.json", known)
    return list(known)


def _page(task: str, rows: list[tuple[str, float, Manifest, list[str]]]) -> list[str]:
    lines = [
        "# What pruned models still say",
        "",
        f"Written by `benchmarks/assistant.py`. SmolLM2-135M-Instruct, built for {task}, with a "
        "share of conversations in the general stream or without; they are the dense model's own, "
        "and what is measured here was held out. 95 % intervals over sequences.",
        "",
        sentence(),
        "",
        f"| {' | '.join(_HEADINGS)} |",
        "|" + " --- |" * len(_HEADINGS),
    ]
    if rows:
        lines.append(_row("dense", "", rows[0][2].results.dense))
    lines += [
        _row(kind, f"{share:.0%}", manifest.results.artifacts["pruned"])
        for kind, share, manifest, _ in rows
    ]
    lines += ["", "## Three questions", ""]
    for number, question in enumerate(_QUESTIONS):
        lines += [f"**{question}**", ""]
        lines += [
            f"- {kind}, {share:.0%}: {' '.join(said[number].split())}"
            for kind, share, _, said in rows
        ]
        lines += [""]
    return lines


def _row(name: str, share: str, one: Measured) -> str:
    chat, text, said = one.agreement.get("chat"), one.agreement.get("text"), one.speech
    cells = [
        name, share,
        interval_text(chat.nats, 3) if chat else "",
        f"{chat.worst_nats:.1f}" if chat else "",
        interval_text(chat.same_top, 3) if chat else "",
        interval_text(text.nats, 3) if text else "",
        interval_text(one.nats_per_answer_token, 2),
        f"{one.general_perplexity.value:.1f}",
        f"{said.loops:.0%} / {said.copies:.0%} / {said.ended:.0%}" if said else "",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
