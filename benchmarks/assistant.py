"""What pruned models still say: writes docs/measured/assistant.md.

    python benchmarks/assistant.py --minutes 60

The same builds with and without conversations in the general stream; each is a build as users make
it, in ablations/assistant, and finished ones are only read.
"""

import time
from collections.abc import Iterator
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
    "50 % zeros, Q8_0, trained for eight minutes": {
        "pruning.sparsity": 0.5, "training.enabled": True, "training.budget": "8m",
    },
    "chosen, trained for two minutes": {},
}  # fmt: skip
_HEADINGS = (
    "build", "conversations", "divergence on chat, nats", "99 %", "same top token",
    "divergence on text", "nats / answer token", "perplexity", "answers that loop / copy / end",
)  # fmt: skip
_PENALTY = 1.1  # of repetition, as `edgeprune chat` has it by default
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


def _answers(folder: Path) -> dict[str, list[str]]:
    """What the build's model and its dense one answer to three questions, as chat says it."""
    known = read_json(folder / "said.json")
    if known is None:
        packed = folder / "model.packed.gguf"
        paths = {"pruned": packed if packed.exists() else folder / "model.gguf"}
        paths["dense"] = folder / "work" / "dense-q8_0.gguf"
        known = {
            name: ["".join(Chat(path, 1024).answer(one, 96, 0.0, _PENALTY)) for one in _QUESTIONS]
            for name, path in paths.items()
        }
        write_json(folder / "said.json", known)
    return dict(known)


def _page(task: str, rows: list[tuple[str, float, Manifest, dict[str, list[str]]]]) -> list[str]:
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
    lines += ["", *_what_conversations_bring(rows)]
    lines += ["", f"## Three questions, greedily, with a repetition penalty of {_PENALTY}", ""]
    for number, question in enumerate(_QUESTIONS):
        lines += [f"**{question}**", ""]
        if rows:
            lines += [f"- dense: {_in_a_line(rows[0][3]['dense'][number])}"]
        lines += [
            f"- {kind}, {share:.0%}: {_in_a_line(said['pruned'][number])}"
            for kind, share, _, said in rows
        ]
        lines += [""]
    return lines


def _what_conversations_bring(
    rows: list[tuple[str, float, Manifest, dict[str, list[str]]]],
) -> Iterator[str]:
    found = {(kind, share): one.results.artifacts["pruned"] for kind, share, one, _ in rows}
    for kind in _KINDS:
        without, with_them = (found.get((kind, share)) for share in _SHARES)
        if without and with_them:
            before, after = (one.agreement["chat"].nats.value for one in (without, with_them))
            change = f"{after / before - 1:+.0%}"
            yield f"- {kind}: conversations change the divergence on chat by {change}."


def _in_a_line(text: str) -> str:
    return " ".join(text.split())


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
