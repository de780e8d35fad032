"""`edgeprune check`: the gate."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import click

from edgeprune.cli.baseline import folder_option
from edgeprune.cli.programs import ProgramType

if TYPE_CHECKING:
    from edgeprune.regression.verdicts import Finding
    from runtime_tests.programs import Program

# Exit codes of this verb.
_CODES = {"held": 0, "regressed": 1, "unclear": 5}
_ANNOTATIONS = {"held": "notice", "regressed": "error", "unclear": "warning"}
_EPILOG = """\b
Examples:
  edgeprune check builds/new --baseline main
  edgeprune check builds/new --baseline main --limits laptop-cpu --junit check.xml
  edgeprune check builds/new --baseline main --history checks.jsonl --commit $GITHUB_SHA
  edgeprune check builds/new --limits phone-arm            # limits alone
  edgeprune check builds/new --baseline main --program /opt/new/llama-server
\b
Exit codes: 0 held, 1 regressed, 5 could not tell (too noisy, too few rows, other questions,
another machine); errors have others.
"""


def _seconds(_context: click.Context, _option: click.Parameter, text: str) -> float:
    from edgeprune.recipe.units import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None


@click.command("check", epilog=_EPILOG)
@click.argument("build", type=click.Path(path_type=Path))
@click.option("--baseline", metavar="NAME|FILE", help="What to compare with.")
@click.option(
    "--limits",
    "limits_of",
    metavar="NAME|FILE",
    help="Limits of a device: laptop-cpu, phone-arm, or a .yaml.",
)
@click.option(
    "--time", "budget", default="120s", show_default=True, metavar="TIME", callback=_seconds,
    help="Longest time for timing: 90s, 5m. It ends as soon as all is clear.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1), help="[as in the baseline]")
@click.option(
    "--program", type=ProgramType(),
    help="Also run the artifact in this llama-server, llama-bench or OpenAI-style server. [as the "
    "baseline was saved]",
)  # fmt: skip
@click.option(
    "--speed", type=float, help="Share of the baseline artifact's speed; prefill twice that. [0.03]"
)
@click.option("--drift", type=float, help="Share of speed as x dense; prefill twice that. [0.2]")
@click.option("--total-speed", type=float, help="Share of tokens/s; prefill twice that. [0.25]")
@click.option("--accuracy", type=float, help="Points that may be lost. [2]")
@click.option("--nats", type=float, help="Share of nats per answer token that may be added. [0.02]")
@click.option(
    "--chat", type=float, help="Share of divergence on conversations that may be added. [0.1]"
)
@click.option("--junit", type=click.Path(path_type=Path), help="Write JUnit XML.")
@click.option("--github", is_flag=True, help="Print as GitHub's annotations.")
@click.option(
    "--history", "history_file", type=click.Path(path_type=Path), metavar="FILE",
    help="Keep the check in this file, and look for drift over all that are in it.",
)  # fmt: skip
@click.option("--commit", default="", help="What is checked, for the history: a commit, a version.")
@click.option("--json", "as_json", is_flag=True, help="Print verdicts and the measurement as JSON.")
@folder_option
def command(
    build: Path, baseline: str | None, limits_of: str | None, budget: float, threads: int | None,
    junit: Path | None, github: bool, history_file: Path | None, commit: str, as_json: bool,
    folder: Path, program: "Program | None", **thresholds: float | None,
) -> None:  # fmt: skip
    """Compare a build with a baseline or with a device's limits: did it get worse?

    A change counts if it passes its threshold and a statistical test confirms it; a measure has
    held only if the worse end of its interval is within the threshold. If the baseline's artifact
    still exists, fresh processes of both take turns until it is clear, or until the time is up
    (Student's t over pairs of processes). Tokens per second, and speeds relative to the dense
    baseline, are also compared with those that were saved (Welch's t). Their thresholds are wider,
    because shared machines drift; they show a slower runtime or fewer threads. Answers to the same
    rows are compared by McNemar's test, likelihoods by Student's paired t. In one of twenty checks
    of an unchanged build, at most, any of these tests is wrong.
    """
    from edgeprune.regression import baselines, history, limits
    from edgeprune.regression.check import check, worst
    from edgeprune.regression.thresholds import Thresholds
    from edgeprune.support.errors import UsageError
    from edgeprune.support.files import json_text, write_text
    from edgeprune.support.progress import Bars

    if not baseline and not limits_of:
        raise UsageError(
            "There is nothing to compare the build with.", "Give --baseline or --limits."
        )
    if history_file and not baseline:
        raise UsageError("A history is of checks against a baseline.", "Give --baseline too.")
    asked = limits.read_limits(limits_of) if limits_of else None
    kept = history.read(history_file) if history_file else []
    before = baselines.load(baseline, folder) if baseline else None
    given = {name: value for name, value in thresholds.items() if value is not None}
    allowed = Thresholds(**given)
    findings, after = check(build, before, asked, allowed, budget, Bars(), threads, program)
    if history_file and before:
        kept.append(history.entry(before, after, findings, worst(findings), commit))
        history.write(history_file, kept)
        findings += history.drift(kept, allowed)
    verdict = worst(findings)
    if junit:
        write_text(junit, _junit(findings, build).decode())
    if as_json:
        found = [vars(finding) for finding in findings]
        click.echo(json_text({"verdict": verdict, "findings": found, "measured": after.to_json()}))
    else:
        for finding in findings:
            click.echo(_annotation(finding) if github else _line(finding))
        click.echo(f"{verdict}: {build} {_said(verdict)}")
    sys.exit(_CODES[verdict])


def _said(verdict: str) -> str:
    return {
        "held": "is within every limit.",
        "regressed": "is worse than allowed.",
        "unclear": "can't be judged. For speed, use more --time or a quieter machine. For "
        "answers, build both with a larger measurement.eval_rows (or "
        "measurement.perplexity_tokens).",
    }[verdict]


def _line(finding: "Finding") -> str:
    return f"{finding.verdict:<9} {finding.measure}: {finding.sentence}"


def _annotation(finding: "Finding") -> str:
    kind = _ANNOTATIONS[finding.verdict]
    return f"::{kind} title={finding.measure} {finding.verdict}::{finding.sentence}"


def _junit(findings: "list[Finding]", build: Path) -> bytes:
    count = {verdict: sum(f.verdict == verdict for f in findings) for verdict in _CODES}
    about: dict[str, Any] = {
        "name": f"edgeprune check {build.name}", "tests": str(len(findings)),
        "failures": str(count["regressed"]), "skipped": str(count["unclear"]),
    }  # fmt: skip
    suite = ElementTree.Element("testsuite", about)
    for finding in findings:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": "edgeprune.check", "name": finding.measure}
        )
        tag = {"regressed": "failure", "unclear": "skipped"}.get(finding.verdict, "system-out")
        child = ElementTree.SubElement(case, tag)
        if tag == "system-out":
            child.text = finding.sentence
        else:
            child.set("message", finding.sentence)
    return ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
