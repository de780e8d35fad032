"""What people read: the page, the model card, builds beside each other, many builds in one go."""

import errno
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from edgeprune.experiments import sweep as sweeping
from edgeprune.models import open_checkpoint
from edgeprune.models.origin import Origin, origin
from edgeprune.recipe.load import load
from edgeprune.support.errors import InputError
from edgeprune.support.progress import Quiet
from tests.support.processes import run
from tests.support.recipes import QUICK

CARD = """---
license: llama3.2
license_link: https://example.com/license
language: en
---
# A model
"""


class Page(HTMLParser):
    """What a page holds."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: list[str] = []
        self.alts: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        if tag == "figure":
            assert found["role"] == "img"
            self.alts.append(found["aria-label"])
        for name in ("src", "href", "xlink:href"):
            assert found.get(name, "#").startswith("#"), "a page needs no network"
        if "id" in found:
            self.ids.append(found["id"])


@pytest.fixture(scope="module")
def sweep(tiny_folder, rows_file, tmp_path_factory) -> Path:
    """Two types of one pruning and one recipe that can't hold its gate, built in one go."""
    folder = tmp_path_factory.mktemp("sweep")
    common = {"model.name": str(tiny_folder), "data.task": str(rows_file)} | QUICK
    recipes = {
        "q8": {"artifact.type": "q8_0"},
        "f16": {"artifact.type": "f16"},
        "gate": {"pruning.sparsity": 0.9, "gates.min_decode_speed": 1000},
    }
    for name, values in recipes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(common | values))
    files = [folder / f"{name}.yaml" for name in recipes]
    done = run("sweep", *files, "--out", folder / "builds", "--json")
    assert done.returncode == 1, done.stderr
    states = {outcome["name"]: outcome["state"] for outcome in json.loads(done.stdout)}
    assert states == {"q8": "done", "f16": "done", "gate": "failed"}
    return folder


def test_builds_of_one_pruning_prune_once(sweep):
    blocks = [next((sweep / "builds" / n).glob("work/prune-*/block-0000*")) for n in ("q8", "f16")]
    assert blocks[0].stat().st_ino == blocks[1].stat().st_ino
    planned = run("sweep", sweep / "q8.yaml", sweep / "f16.yaml", "--dry-run")
    assert "f16: " in planned.stdout
    assert planned.stdout.count("shares the pruning of q8") == 1


def test_a_sweep_goes_on_where_it_stopped(sweep):
    before = {p: p.stat().st_mtime_ns for p in sweep.rglob("model.gguf")}
    assert len(before) == 3
    again = run("sweep", *sorted(sweep.glob("*.yaml")), "--out", sweep / "builds")
    assert again.returncode == 1
    assert "pareto.html" in again.stdout
    assert "failed " in again.stdout
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_sweep_says_mistakes_before_any_work(sweep, tmp_path):
    (tmp_path / "odd.yaml").write_text("data: {task: medqa}\npruning: {sparsty: 0.5}\n")
    wrong = run("sweep", sweep / "q8.yaml", tmp_path / "odd.yaml", "--out", tmp_path / "builds")
    assert wrong.returncode == 2
    assert "odd.yaml" in wrong.stderr
    assert "sparsity" in wrong.stderr
    assert not (tmp_path / "builds").exists()
    twice = run("sweep", sweep / "q8.yaml", sweep / "q8.yaml")
    assert twice.returncode == 2
    assert "Two recipes are named 'q8'" in twice.stderr


@pytest.mark.parametrize("blocked", ["q8", "f16"])
def test_a_build_that_can_not_be_made_does_not_stop_the_others(sweep, tmp_path, blocked):
    taken = tmp_path / "builds" / blocked
    taken.mkdir(parents=True)
    (taken / "README.md").write_text("not a build's")
    files = [sweep / "q8.yaml", sweep / "f16.yaml"]
    done = run("sweep", *files, "--out", tmp_path / "builds", "--json")
    assert done.returncode == 2
    states = {outcome["name"]: outcome["state"] for outcome in json.loads(done.stdout)}
    assert states == {"q8": "done", "f16": "done"} | {blocked: "error"}
    assert [path.name for path in taken.iterdir()] == ["README.md"]
    assert (taken / "README.md").read_text() == "not a build's"


def test_a_full_disk_is_one_builds_error(sweep, tmp_path, monkeypatch):
    """And a bug is not hidden as one."""
    recipes = {name: load(str(sweep / f"{name}.yaml")) for name in ("q8", "f16")}
    planned = sweeping.groups(recipes, Quiet())

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sweeping, "build", full)
    found = sweeping.sweep(planned, tmp_path, Quiet())
    assert [(one.state, one.exit_code) for one in found] == [("error", 4), ("error", 4)]
    assert "disk is full" in found[0].message
    monkeypatch.setattr(sweeping, "build", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sweeping.sweep(planned, tmp_path / "other", Quiet())


def test_the_page_can_be_read_without_seeing_it(sweep):
    page = Page((sweep / "builds/q8/report.html").read_text())
    assert len(page.alts) == page.tags.count("svg") == 5
    assert all(re.search(r"\d", alt) for alt in page.alts)
    assert "accuracy: dense 0." in page.alts[0]
    assert "viewport" in (sweep / "builds/q8/report.html").read_text()


def test_a_report_is_written_again(sweep):
    pages = [sweep / "builds/q8" / name for name in ("report.html", "README.md")]
    before = [page.read_bytes() for page in pages]
    for page in pages:
        page.unlink()
    done = run("report", sweep / "builds/q8")
    assert done.returncode == 0, done.stderr
    assert [page.read_bytes() for page in pages] == before
    assert run("report", sweep / "builds/q8", "--out", "x.html").returncode == 2
    nothing = run("report", sweep)
    assert nothing.returncode == 3
    assert "not a finished build" in nothing.stderr


def test_a_history_belongs_to_one_page(sweep, tmp_path):
    build = sweep / "builds/q8"
    missing = run("report", build, "--history", tmp_path / "none.jsonl")
    assert missing.returncode == 3
    assert "edgeprune check --history" in missing.stderr
    (tmp_path / "checks.jsonl").touch()
    assert run("report", build, "--history", tmp_path / "checks.jsonl").returncode == 0
    both = run("report", "--compare", build, "--history", tmp_path / "checks.jsonl")
    assert both.returncode == 2


def test_builds_are_compared_on_one_page(sweep, tmp_path):
    done = run("report", "--compare", sweep / "builds", "--out", tmp_path / "c.html", "--json")
    assert done.returncode == 0, done.stderr
    found = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert set(found) == {"q8", "f16", "gate", ""}
    assert found["gate"]["verdict"] == "failed"
    page = Page((tmp_path / "c.html").read_text())
    assert len(page.alts) == page.tags.count("svg") == 2
    assert "on the Pareto front of size" in page.alts[0]
    here = run("report", "--compare", ".", "--json", cwd=sweep / "builds/q8")
    assert [entry["name"] for entry in json.loads(here.stdout)] == ["q8", ""]
    (sweep / "builds/q8/comparison.html").unlink()


def test_the_card_has_the_hubs_form_and_makes_the_build_again(sweep):
    text = (sweep / "builds/q8/README.md").read_text()
    card = ModelCard(text)
    assert card.data.pipeline_tag == "text-generation"
    assert {"edgeprune", "gguf", "pruned", "sparsity-50"} <= set(card.data.tags)
    assert card.data.license is None
    assert "states no license" in text
    assert "| nats per answer token |" in text
    assert "questions" in text.partition("## Calibration data")[2]
    recipe = sweep / "again.yaml"
    recipe.write_text(re.search(r"```yaml\n(.*?)```", text, re.S)[1])
    assert load(str(recipe)) == load(str(sweep / "q8.yaml"))


def test_the_license_is_passed_on(real_checkpoint, tiny_folder, tmp_path):
    found = origin(real_checkpoint)
    assert found == Origin("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0", languages=("en",))
    folder = tmp_path / "with-card"
    folder.mkdir()
    for file in tiny_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "README.md").write_text(CARD)
    checkpoint = open_checkpoint(str(folder))
    assert origin(checkpoint) == Origin("", "llama3.2", "", "https://example.com/license", ("en",))
    (folder / "README.md").write_text("---\nlicense: [unclosed\n---\n")
    with pytest.raises(InputError, match="is not YAML"):
        origin(checkpoint)


def test_a_sweep_on_ray_gives_the_same_builds(sweep, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed: the cluster was not run")
    files = [sweep / "q8.yaml", sweep / "f16.yaml"]
    done = run("sweep", *files, "--out", tmp_path / "builds", "--ray", "local", "--json")
    assert done.returncode == 0, done.stderr
    for outcome in json.loads(done.stdout):
        made = json.loads((Path(outcome["folder"]) / "manifest.json").read_text())
        alone = json.loads((sweep / "builds" / outcome["name"] / "manifest.json").read_text())
        assert made["artifact"]["sha256"] == alone["artifact"]["sha256"]
