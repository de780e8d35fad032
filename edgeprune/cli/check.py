"""`edgeprune check`: the gate."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import click

from edgeprune.cli.baseline import folder_option

if TYPE_CHECKING:
    from edgeprune.regression.verdicts import Finding

# Exit codes of this verb.
_CODES = {"held": 0, "regressed": 1, "unclear": 2}
_ANNOTATIONS = {"held": "notice", "regressed": "error", "unclear": "warning"}
_EPILOG = """\b
Examples:
  edgeprune check builds/new --baseline main
  edgeprune check builds/new --baseline main --limits laptop-cpu --junit check.xml
  edgeprune check builds/new --limits phone-arm            # limits alone
\b
Exit codes: 0 held, 1 regressed, 2 unclear (too noisy, too few rows, other questions, another
machine).
"""


@click.command("check", epilog=_EPILOG)
@click.argument("build", type=click.Path(path_type=Path))
@click.option("--baseline", metavar="NAME|FILE", help="What to compare with.")
@click.option(
    "--limits",
    "limits_of",
    metavar="NAME|FILE",
    help="Limits of a device: laptop-cpu, phone-arm, or a .yaml.",
)
@click.option("--rounds", type=click.IntRange(2), default=15, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="[as in the baseline]")
@click.option("--speed", type=float, help="Share of the baseline artifact's speed. [0.05]")
@click.option("--drift", type=float, help="Share of speed as x dense; prefill twice that. [0.2]")
@click.option("--total-speed", type=float, help="Share of tokens/s; prefill twice that. [0.25]")
@click.option("--accuracy", type=float, help="Points that may be lost. [2]")
@click.option("--nats", type=float, help="Share of nats per answer token that may be added. [0.02]")
@click.option("--junit", type=click.Path(path_type=Path), help="Write JUnit XML.")
@click.option("--github", is_flag=True, help="Print as GitHub's annotations.")
@click.option("--json", "as_json", is_flag=True, help="Print verdicts and the measurement as JSON.")
@folder_option
def command(
    build: Path, baseline: str | None, limits_of: str | None, rounds: int, threads: int | None,
    junit: Path | None, github: bool, as_json: bool, folder: Path, **thresholds: float | None,
) -> None:  # fmt: skip
    """Compare a build with a baseline or with a device's limits: did it get worse?

    A change of speed counts if it passes its threshold and a statistical test confirms it. If the
    baseline's artifact still exists, both are timed in the same rounds (Wilcoxon's test). Tokens
    per second, and speeds relative to the dense baseline, are also compared with those that were
    saved (Mann-Whitney's test). Their thresholds are wider, because shared machines drift; they
    show a slower runtime or fewer threads. Answers are compared by McNemar's test and a paired
    bootstrap. A measure has held only if the worse end of its 95 % interval is within its limit.
    """
    from edgeprune.regression import baselines, limits
    from edgeprune.regression.compare import Thresholds, compare
    from edgeprune.regression.measurement import measure
    from edgeprune.support.errors import UsageError
    from edgeprune.support.files import json_text, write_text
    from edgeprune.support.progress import Bars

    if not baseline and not limits_of:
        raise UsageError(
            "There is nothing to compare the build with.", "Give --baseline or --limits."
        )
    asked = limits.read_limits(limits_of) if limits_of else None
    before = baselines.load(baseline, folder) if baseline else None
    used = threads or (before.threads if before else None)
    after = measure(build, rounds, used, Bars(), before)
    findings = []
    if before:
        given = {name: value for name, value in thresholds.items() if value is not None}
        findings += compare(before, after, Thresholds(**given))
    if asked:
        findings += limits.judge(asked, after)
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


def worst(findings: "list[Finding]") -> str:
    """The verdict of a check: the worst of its findings."""
    found = {finding.verdict for finding in findings}
    return next((v for v in ("regressed", "unclear") if v in found), "held")


def _said(verdict: str) -> str:
    return {
        "held": "is within every limit.",
        "regressed": "is worse than allowed.",
        "unclear": "can't be judged. For speed, use more --rounds or a quieter machine. For "
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
