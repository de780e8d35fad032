"""The gate on real builds."""

import json
import shutil
from xml.etree import ElementTree

import pytest

from edgeprune.regression.check import check
from edgeprune.regression.measure import measure
from edgeprune.regression.thresholds import Thresholds
from edgeprune.support.progress import Quiet
from tests.support.processes import run


@pytest.fixture(scope="module")
def two_builds(tiny_recipe, tmp_path_factory):
    """A tiny build, and a copy of it whose every answer is a fifth less likely.

    Random weights answer no worse however few of them are left: that has to be said for them.
    """
    from edgeprune import build

    folder = tmp_path_factory.mktemp("builds")
    build(tiny_recipe, folder / "good")
    shutil.copytree(folder / "good", folder / "bad")
    manifest = json.loads((folder / "bad/manifest.json").read_text())
    answers = manifest["results"]["artifacts"]["pruned"]["answers"]
    answers["nats"] = [1.2 * nats for nats in answers["nats"]]
    (folder / "bad/manifest.json").write_text(json.dumps(manifest))
    return folder


def test_the_gate_on_real_builds(two_builds, tmp_path):
    kept = tmp_path / "baselines"
    where = ("--folder", kept)
    saved = run("baseline", "save", two_builds / "good", "--name", "main", *where)
    assert saved.returncode == 0, saved.stderr
    assert run("baseline", "list", *where).stdout == "main\n"
    junit = tmp_path / "check.xml"
    # A tiny model's timings are noise: only what it answers is judged here.
    free = ("--speed", "1", "--drift", "1", "--total-speed", "1", "--time", "3s")
    same = run("check", two_builds / "good", "--baseline", "main", *where, *free)
    assert same.returncode == 0, same.stdout + same.stderr
    worse = run("check", two_builds / "bad", "--baseline", "main", "--junit", junit, *where, *free)
    assert worse.returncode == 1, worse.stdout + worse.stderr
    assert "regressed nats per answer token" in worse.stdout
    suite = ElementTree.parse(junit).getroot()
    assert int(suite.get("failures")) >= 1
    said = run("check", two_builds / "bad", "--baseline", "main", "--github", *where, *free)
    assert "::error title=nats per answer token regressed::" in said.stdout


def test_ten_checks_of_one_build_raise_fewer_than_three_alarms(two_builds):
    """While another worker uses the next core; an unchanged build has to pass.

    Milliseconds of a tiny model depend on how many processes wait beside it, fewer when a baseline
    is measured: only what ran beside each other is judged.
    """
    good = two_builds / "good"
    before = measure(good, Quiet())
    found, allowed = [], Thresholds(drift=1.0, total_speed=1.0)
    for _ in range(10):
        findings, _ = check(good, before, None, allowed, 5.0, Quiet())
        found += [one for one in findings if one.verdict == "regressed"]
    assert len(found) < 3, found
