"""Training under a mask: the loss, the batches, exact zeros, restarts; and in a build."""

import itertools
import math
import time
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from edgeprune.engine import prune
from edgeprune.formats.weights import Weights
from edgeprune.models.blocks import decoder_blocks
from edgeprune.models.checkpoint import open_checkpoint
from edgeprune.models.loading import load_model
from edgeprune.planning.grid import Grid
from edgeprune.pruning.fusion import FusionRule
from edgeprune.pruning.matrix import Pruning
from edgeprune.quantization.scales import one_by_one, slopes
from edgeprune.recovery import student
from edgeprune.recovery import train as training
from edgeprune.recovery.batches import split
from edgeprune.recovery.budget import Budget
from edgeprune.recovery.curve import has_risen
from edgeprune.recovery.losses import Objective, distillation, hidden_distance
from edgeprune.recovery.masters import Masters
from edgeprune.recovery.qat import FakeQuantizer
from edgeprune.recovery.selection import freedom
from edgeprune.recovery.settings import Training
from edgeprune.recovery.step import TrainStep
from edgeprune.recovery.student import Student
from edgeprune.recovery.tokens import token_weights
from edgeprune.support.errors import CheckFailed, InputError
from edgeprune.support.progress import Quiet
from tests.support.models import make_small
from tests.support.plans import prune_uniformly, uniform_plan
from tests.support.streams import streams
from tests.support.training import APART, STEPS, killed_before, note_steps, train


def load(stored: bytes) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(stored)


@pytest.fixture(scope="module")
def whole(pruned, tmp_path_factory) -> bytes:
    """The weights of a run that nothing interrupts."""
    return train(pruned, tmp_path_factory.mktemp("whole")).checkpoint.files[-1].read_bytes()


def test_the_loss_is_torchs_divergence_and_entropy():
    """More tokens than go through at a time; its gradient is the one that torch derives."""
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(300, 7, generator=generator) for _ in range(2))
    weights = torch.rand(300, generator=generator) * (torch.arange(300) % 3 > 0)
    following = torch.randint(7, (300,), generator=generator)
    student.requires_grad_(True)
    functional = torch.nn.functional
    log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
    divergence = functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
    entropy = functional.cross_entropy(student, following, reduction="none")
    for share, asked in ((0.0, teacher), (0.3, teacher), (1.0, teacher), (1.0, None)):
        expected = ((1 - share) * divergence + share * entropy) @ weights
        found = distillation(student, asked, following, share, weights)
        assert torch.allclose(found, expected)
        (wanted,) = torch.autograd.grad(3 * expected, student, retain_graph=True)
        (given,) = torch.autograd.grad(3 * found, student)
        assert torch.allclose(given, wanted, atol=1e-6)
    assert distillation(teacher, teacher, following, 0.0, weights).abs() < 1e-4


def test_the_distance_of_hidden_states_is_relative():
    generator = torch.Generator().manual_seed(2)
    states = tuple(torch.randn(2, 4, 6, generator=generator) for _ in range(3))
    shares = torch.tensor([0.2, 0.6])
    assert hidden_distance(states, states, shares) == 0
    halves = tuple(torch.stack([state[0], state[1] / 2]) for state in states)
    assert torch.allclose(hidden_distance(halves, states, shares), torch.tensor(0.6 * 0.25))


def test_freedom_is_spiders():
    """Ranks of four kept weights by hand; the zero has none."""
    start = torch.tensor([[1.0, -2.0, 0.0], [3.0, 4.0, 0.0]])
    gradients = torch.tensor([[4.0, 3.0, 9.0], [2.0, 1.0, 9.0]])
    standard = (torch.tensor([1.0, 2.0, 3.0, 4.0]) - 2.5) / 1.25**0.5
    before, now = standard.sigmoid(), standard.flip(0).sigmoid()
    wanted = torch.where(now > before, now / (now + before), 0.0)
    wanted = (wanted / wanted[:2].mean()).clamp_max(1)
    free = freedom(start, gradients)
    assert torch.allclose(free[start != 0], wanted)
    assert not free[start == 0].any()
    assert not freedom(torch.zeros(2, 2), torch.ones(2, 2)).any()


def test_tokens_count_as_answers_or_as_text():
    made = streams(3)
    answers = made["task"].answers[:, 1:]
    assert torch.equal(token_weights(made, True, 5.0)["task"] > 0, answers)
    distilled = token_weights(made, False, 5.0)
    assert distilled["task"][answers].unique().tolist() == [5.0]
    assert distilled["task"][~answers].unique().tolist() == [1.0]
    assert distilled["general"].unique().tolist() == [1.0]


def test_high_perplexity_answers_are_left_out(pruned, tmp_path, monkeypatch):
    from edgeprune.engine.device import compute_dtype

    cpu, task = torch.device("cpu"), streams(3)["task"]
    logits = load_model(pruned.base, compute_dtype(cpu))(input_ids=task.tokens).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), task.tokens[:, 1:], reduction="none"
    )
    answers = task.answers[:, 1:]
    limit = 1.01 * losses[answers].detach().median().exp().item()
    wanted = answers & (losses.exp() <= limit)
    assert 0 < wanted.sum() < answers.sum()
    seen = {}
    for name in ("backward", "evaluate"):
        real = getattr(Objective, name)

        def noted(self, samples, name=name, real=real):
            seen[name] = [sample for sample in samples if sample.stream == "task"]
            return real(self, samples)

        monkeypatch.setattr(Objective, name, noted)
    how = Training(answers=True, max_perplexity=limit, steps=1, task_share=0.5, batch=4)
    training.train(pruned, streams(3), how, tmp_path, Quiet(), "cpu")
    assert [len(samples) for samples in seen.values()] == [1, 2]
    for sample in (*seen["evaluate"], *seen["backward"]):
        (place,) = (task.tokens == sample.tokens).all(1).nonzero()[0]
        assert torch.equal(sample.weights > 0, wanted[place])


@given(
    samples=st.integers(1, 23), batch=st.integers(1, 7), share=st.sampled_from([0.0, 0.3, 1.0]),
    chat=st.sampled_from([0.0, 0.4, 1.0]),
)  # fmt: skip
def test_every_sequence_has_its_turn(samples, batch, share, chat):
    tokens = {name: stream.tokens for name, stream in streams(samples, 4).items()}
    tokens["chat"] = tokens["general"] + 1000
    weights = {name: torch.ones(samples, 3) for name in tokens}
    shares = {"general": (1 - share) * (1 - chat), "chat": (1 - share) * chat, "task": share}
    train_on, held_out = split(tokens, weights, shares, seed=5)
    share = train_on.task_share(8 * batch)
    for name, tokens in train_on.tokens.items():
        kept = {tuple(row) for row in held_out.tokens[name].tolist()}
        assert samples == 1 or not kept & {tuple(row) for row in tokens.tolist()}
    assert sum(one.weights.sum().item() for one in held_out.all()) == pytest.approx(1)
    seen: dict[str, list[tuple[int, ...]]] = {name: [] for name in train_on.tokens}
    for step in range(8):
        picked = train_on.step(step, batch, share)
        assert len(picked) == batch
        assert sum(one.weights.sum().item() for one in picked) == pytest.approx(1)
        again = train_on.step(step, batch, share)
        pairs = zip(picked, again, strict=True)
        assert all(torch.equal(one.tokens, other.tokens) for one, other in pairs)
        for one in picked:
            assert (train_on.tokens[one.stream] == one.tokens).all(1).any()
            seen[one.stream].append(tuple(one.tokens.tolist()))
    task = math.floor(8 * batch * share + 0.5)
    assert len(seen.get("task", [])) == task
    assert len(seen.get("chat", [])) == math.floor((8 * batch - task) * chat + 0.5)
    for name, order in seen.items():
        size = len(train_on.tokens[name])
        assert len(set(order[:size])) == len(order[:size])


@pytest.mark.parametrize(
    ("asked", "sequences", "given"), [(0.25, 80, 0.25), (0.25, 800, 0.025), (0, 80, 0), (1, 80, 1)]
)
def test_a_small_task_comes_twice_and_no_more(asked, sequences, given):
    tokens = {name: stream.tokens for name, stream in streams(12, 4).items()}
    weights = {name: torch.ones(12, 3) for name in tokens}
    shares = {"general": 1 - asked, "task": asked}
    train_on, held_out = split(tokens, weights, shares, seed=5)  # 10 and 2
    assert train_on.task_share(sequences) == given
    steps = [train_on.step(step, 2, given) for step in range(sequences // 2)]
    seen = [tuple(one.tokens.tolist()) for step in steps for one in step if one.stream == "task"]
    assert len(seen) == round(given * sequences)
    if 0 < asked < 1:
        assert {seen.count(one) for one in seen} <= {2}
    assert sum(one.weights.sum() for one in held_out.all() if one.stream == "task") == asked


def test_training_sees_a_small_task_twice_whatever_it_was_asked_for(pruned, tmp_path, monkeypatch):
    real, seen = Objective.backward, []

    def backward(self, samples):
        seen.extend(tuple(s.tokens.tolist()) for s in samples if s.stream == "task")
        return real(self, samples)

    monkeypatch.setattr(Objective, "backward", backward)
    found = train(pruned, tmp_path)
    assert found.task_share == 2 * 10 / (2 * STEPS) < 0.5
    assert {seen.count(one) for one in seen} == {2}
    assert len(seen) == 20


def test_zeros_stay_and_the_loss_falls(pruned, tmp_path):
    found = train(pruned, tmp_path)
    before, after = pruned.weights(), found.checkpoint.weights()
    moved = 0
    for record in pruned.records:
        old, new = before.read(record.name), after.read(record.name)
        assert torch.equal(old == 0, new == 0)
        moved += int((old != new).sum())
    assert moved
    losses = [point["held_out"] for point in found.curve]
    assert min(losses) < losses[0]
    assert found.steps <= found.planned == STEPS
    embedding = "model.embed_tokens.weight"
    assert torch.equal(before.read(embedding), after.read(embedding))
    left = {"recovered.safetensors", "scales.safetensors", "done.json"}
    assert {path.name for path in tmp_path.iterdir()} == left


VARIANTS = {
    "answers": {"answers": True},
    "text alone": {"answers": True, "text_share": 1.0},
    "hidden": {"hidden_weight": 1.0},
    "selective": {"selective": True},
    "adapters": {"rank": 4, "learning_rate": 1e-2},
    "less memory": {"save_memory": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_training_keeps_zeros_learns_and_goes_on_where_it_was_killed(
    pruned, tmp_path, monkeypatch, variant
):
    found = train(pruned, tmp_path / "whole", **VARIANTS[variant])
    before, after = pruned.weights(), found.checkpoint.weights()
    for record in pruned.records:
        old, new = before.read(record.name), after.read(record.name)
        assert torch.equal(old == 0, new == 0)
        assert not torch.equal(old, new)
    losses = [point["held_out"] for point in found.curve]
    assert min(losses) < losses[0]
    with killed_before(10, monkeypatch):
        train(pruned, tmp_path / "killed", **VARIANTS[variant])
    begun = note_steps(monkeypatch)
    again = train(pruned, tmp_path / "killed", **VARIANTS[variant])
    assert begun[0] == APART
    bytes_of = [one.checkpoint.files[-1].read_bytes() for one in (found, again)]
    assert bytes_of[0] == bytes_of[1]


def test_the_dense_model_is_not_asked_where_text_alone_is_learnt(pruned, tmp_path, monkeypatch):
    real = training.load_model

    def mute(*args):
        model = real(*args)
        model.forward = None
        return model

    monkeypatch.setattr(training, "load_model", mute)
    assert train(pruned, tmp_path / "text", answers=True, text_share=1.0, steps=1).steps == 1
    with pytest.raises(TypeError, match="not callable"):
        train(pruned, tmp_path / "both", answers=True, text_share=0.5, steps=1)


def test_answers_of_high_perplexity_alone_are_an_error(pruned, tmp_path):
    with pytest.raises(InputError, match="no answer token with a perplexity"):
        train(pruned, tmp_path, answers=True, max_perplexity=1.01)


def test_recomputed_activations_give_the_same_weights(pruned, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "compute_dtype", lambda _device: torch.float32)
    kept = load_file(train(pruned, tmp_path / "kept").checkpoint.files[-1])
    real, blocks = Student.save_memory, []

    def counted(self):
        real(self)
        for block in decoder_blocks(self.model)[1]:
            run = block._gradient_checkpointing_func

            def again(*args, run=run):
                blocks.append(args)
                return run(*args)

            block._gradient_checkpointing_func = again

    monkeypatch.setattr(Student, "save_memory", counted)
    found = train(pruned, tmp_path / "again", save_memory=True)
    assert len(blocks) >= 2 * STEPS
    for name, tensor in load_file(found.checkpoint.files[-1]).items():
        assert torch.allclose(tensor, kept[name], atol=1e-4), name


def test_selective_updates_move_less(pruned, whole, tmp_path):
    found = train(pruned, tmp_path, selective=True)
    start, everywhere, here = pruned.weights(), load(whole), found.checkpoint.weights()
    moved = {"all": 0.0, "selective": 0.0}
    for record in pruned.records:
        old = start.read(record.name)
        moved["all"] += float((everywhere[record.name] - old).abs().sum())
        moved["selective"] += float((here.read(record.name) - old).abs().sum())
    assert moved["selective"] < 0.8 * moved["all"]


def test_adapters_train_what_they_leave(pruned, tmp_path):
    """Held-out loss of the merged weights, by a model that knows nothing of adapters."""
    how = {"rank": 4, "learning_rate": 1e-2}
    found = train(pruned, tmp_path / "adapters", **how)
    merged = replace(found.checkpoint, calibration=pruned.calibration)
    again = train(merged, tmp_path / "again", steps=1)
    best = min(point["held_out"] for point in found.curve)
    assert again.curve[0]["held_out"] == pytest.approx(best, rel=0.02)


def test_adapters_begin_without_a_copy_of_the_model(pruned, tmp_path, monkeypatch):
    """Weights in what is computed with, adapters in float32, and no file as large as the model."""
    written, opened = {}, []
    save, load = safetensors.torch.save_file, student.open_student

    def saved(tensors, path, **how):
        written[Path(path).name] = sum(tensor.nbytes for tensor in tensors.values())
        save(tensors, path, **how)

    def loaded(*how):
        opened.append(load(*how))
        assert {parameter.dtype for parameter in opened[-1].parameters()} == {torch.bfloat16}
        return opened[-1]

    monkeypatch.setattr(safetensors.torch, "save_file", saved)
    monkeypatch.setattr(student, "open_student", loaded)
    monkeypatch.setattr(training, "compute_dtype", lambda _device: torch.bfloat16)
    train(pruned, tmp_path / "run", rank=4, steps=4, learning_rate=1e-2)
    assert len(opened) == 1  # not once more to merge
    weights = pruned.weights()
    result = sum(4 * weights.read(record.name).numel() for record in pruned.records)
    whole = sum(weights.read(name).nbytes for name in weights.names())
    assert [size for size in written.values() if size >= result] == [result]  # what is kept
    assert result < whole


def test_adapters_are_merged_with_every_digit(pruned, tmp_path):
    """Those that change nothing give back what was pruned, whatever was computed with."""
    made = Student(pruned, torch.device("cpu"), torch.bfloat16, 4, 0)
    assert all(master.dtype == torch.float32 for master in made.masters.parameters.values())
    values = {name: master.detach() for name, master in made.masters.parameters.items()}
    safetensors.torch.save_file(values, tmp_path / "values.safetensors")
    merged = made.trained(Weights([tmp_path / "values.safetensors"]))
    assert set(merged) == {record.name for record in pruned.records}
    for name, tensor in merged.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, pruned.weights().read(name).float())


def test_zeros_are_zero_at_every_step(pruned, tmp_path, monkeypatch):
    real, seen = TrainStep.take, []

    def take(self, state):
        loss = real(self, state)
        for name, mask in self.optimizer.masks.items():
            seen.append(bool((self.masters.parameters[name] == 0)[~mask].all()))
        return loss

    monkeypatch.setattr(TrainStep, "take", take)
    train(pruned, tmp_path)
    assert len(seen) >= STEPS
    assert all(seen)


@pytest.mark.parametrize(
    ("killed_at", "goes_on_at"), [(0, 0), (8, 0), (11, APART), (20, 2 * APART)]
)
def test_a_killed_run_gives_the_same_weights(
    pruned, whole, tmp_path, monkeypatch, killed_at, goes_on_at
):
    with killed_before(killed_at, monkeypatch):
        train(pruned, tmp_path / "killed")
    begun = note_steps(monkeypatch)
    again = train(pruned, tmp_path / "killed")
    assert begun[0] == goes_on_at
    assert again.checkpoint.files[-1].read_bytes() == whole


def test_damaged_state_begins_anew(pruned, whole, tmp_path, monkeypatch):
    with killed_before(STEPS - 1, monkeypatch):
        train(pruned, tmp_path / "cut")
    (state,) = (tmp_path / "cut").glob("state-*.safetensors")
    state.write_bytes(state.read_bytes()[:1000])
    assert train(pruned, tmp_path / "cut").checkpoint.files[-1].read_bytes() == whole


def test_a_time_budget_becomes_steps(pruned, tmp_path, monkeypatch):
    """A clock that goes on by one second each time it is looked at."""
    clock = itertools.count()
    monkeypatch.setattr(training.time, "perf_counter", lambda: float(next(clock)))
    how = Training(seconds=30, batch=1)
    found = training.train(pruned, streams(2), how, tmp_path, Quiet(), "cpu")
    # Of 30 s, 3 have gone when a step has taken one. A point reads 2 sequences without a backward
    # pass, as long as a step, so that 4 take 15 % of the time, one of them before the first step.
    # That makes 23 steps, and a point each 8. But these 8 took 1 s, and 6 s have gone.
    assert found.curve[1]["step"] == 8
    assert found.planned == 8 + int((30 - 6) / (1 / 8) - 3)


def test_a_short_run_judges_on_few_sequences():
    class OneSecond:
        def timed(self, rehearsals=1):
            return 1.0

    def planned(seconds):
        how = Training(seconds=seconds, batch=2)
        return Budget(how, [6, 6], time.perf_counter()).plan(OneSecond())

    short, long = planned(24), planned(200)
    assert (short.judged, long.judged) == (2, 6)
    assert short.points < long.points
    for state, seconds in ((short, 24), (long, 200)):
        judging = (state.points + 1) * state.judged * 2 / 4  # of both streams, a half step for two
        assert judging <= 0.15 * seconds
        assert state.steps == pytest.approx(seconds - judging, abs=2)


def test_a_run_has_risen_after_three_points_of_one_kind():
    def curve(*points):
        return [{"held_out": held_out, "rounded": rounded} for held_out, rounded in points]

    falling, rising = [(4.0, False), (3.0, False)], [(5.0, False)] * 3
    assert not has_risen(curve(*falling, *rising[:2]), 3.0)
    assert has_risen(curve(*falling, *rising), 3.0)
    assert not has_risen(curve(*falling, *rising, (6.0, True)), math.inf)
    assert not has_risen(curve(*falling, *rising, (6.0, True), *[(7.0, True)] * 2), 6.0)
    assert has_risen(curve(*falling, *rising, (6.0, True), *[(7.0, True)] * 3), 6.0)


def test_training_stops_when_it_only_gets_worse(pruned, tmp_path):
    how = Training(steps=60, batch=1, learning_rate=0.3)
    found = training.train(pruned, streams(12), how, tmp_path, Quiet(), "cpu")
    assert found.steps < found.planned
    name = pruned.records[0].name
    kept = found.checkpoint.weights().read(name)
    assert torch.equal(pruned.weights().read(name), kept)  # the best was the first


def test_a_loss_that_is_no_number_is_an_error(pruned, tmp_path):
    how = Training(steps=9, learning_rate=1e30)
    with pytest.raises(CheckFailed, match="loss is NaN"):
        training.train(pruned, streams(12), how, tmp_path, Quiet(), "cpu")


def on_grid(weight, scales):
    codes = weight.view(len(weight), -1, 32) / scales.float()[:, :, None].clamp_min(1e-12)
    return (codes - codes.round()).abs().max() < 1e-3 and codes.abs().max() <= 8


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("killed_at", [0, 10, 20])
def test_the_last_steps_train_what_the_file_holds(
    pruned, tmp_path, monkeypatch, killed_at, learns
):  # fmt: skip
    grids = {record.name: Grid(-8, 7) for record in pruned.records}
    if killed_at:
        with killed_before(killed_at, monkeypatch):
            train(pruned, tmp_path, grids, learn_scales=learns)
    begun = note_steps(monkeypatch)
    found = train(pruned, tmp_path, grids, learn_scales=learns)
    assert begun[0] == killed_at // APART * APART
    assert found.rounded == len(pruned.records)
    assert [point["rounded"] for point in found.curve].count(True) >= 2
    weights, scales = found.checkpoint.weights(), Weights(found.checkpoint.calibration)
    for record in pruned.records:
        new = weights.read(record.name)
        assert on_grid(new, scales.read(f"{record.name}.scales").abs())
        assert not new[pruned.weights().read(record.name) == 0].any()
    if killed_at:
        whole = train(pruned, tmp_path / "whole", grids, learn_scales=learns).checkpoint
        assert found.checkpoint.files[-1].read_bytes() == whole.files[-1].read_bytes()
        assert found.checkpoint.calibration[-1].read_bytes() == whole.calibration[-1].read_bytes()


def test_trained_scales_move_and_the_grid_may_begin_at_once(pruned, tmp_path):
    grids = {record.name: Grid(-2, 1) for record in pruned.records}
    ways = {"fixed": {}, "trained": {"learn_scales": True}}
    found = {
        name: train(pruned, tmp_path / name, grids, grid_from=0.0, **how)
        for name, how in ways.items()
    }
    assert all(point["rounded"] for point in found["trained"].curve[1:])
    fixed, trained = (Weights(one.checkpoint.calibration) for one in found.values())
    name = f"{pruned.records[0].name}.scales"
    assert not torch.equal(fixed.read(name), trained.read(name))
    moved = (trained.read(name).float() / fixed.read(name).float())[fixed.read(name) != 0]
    assert 0.8 < moved.min() <= moved.max() < 1.25


@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_on_a_grid_is_trained_with_the_blocks(tied, tmp_path):
    """Its zeros may change: only pruned ones stay."""
    checkpoint = open_checkpoint(str(make_small(tmp_path / "model", tie_word_embeddings=tied)))
    dense = checkpoint.weights()
    names = [name for name in dense.names() if "embed_tokens" in name or "lm_head" in name]
    assert len(names) == 2 - tied
    mixed = Pruning("wanda", FusionRule("mix"))
    start = prune_uniformly(checkpoint, streams(2), mixed, tmp_path / "pruned", device="cpu")
    grids = {name: Grid(-8, 7) for name in [*names, start.records[0].name]}
    found = train(start, tmp_path / "trained", grids).checkpoint
    weights, scales = found.weights(), Weights(found.calibration)
    for name in names:
        new, old = weights.read(name), dense.read(name)
        assert on_grid(new, scales.read(f"{name}.scales").abs())
        only_rounded = one_by_one(old.float(), torch.ones(old.shape[::-1]), grids[name])[0]
        assert (new != only_rounded).float().mean() > 0.01
    pruned_name = start.records[0].name
    assert not weights.read(pruned_name)[start.weights().read(pruned_name) == 0].any()


def test_training_goes_on_from_what_gptq_rounded(small_folder, tmp_path):
    checkpoint, mixed = open_checkpoint(str(small_folder)), Pruning("alps_fast", FusionRule("mix"))
    grid = Grid(-4, 3)
    plan = uniform_plan(checkpoint, grid=grid)
    final, start = (
        prune(checkpoint, streams(2), mixed, plan, tmp_path / str(way), Quiet(), to_train=way)
        for way in (False, True)
    )
    name = final.records[0].name
    quantizer = FakeQuantizer(
        load_model(checkpoint, torch.float32), frozenset(checkpoint.weights().names()),
        {name: grid}, Weights(start.calibration), from_rounded=True,
    )  # fmt: skip
    masters = Masters({name: torch.nn.Parameter(start.weights().read(name))})
    quantizer.fit(masters)
    shown = quantizer.fake_quantize(name, start.weights().read(name))
    assert torch.allclose(shown, final.weights().read(name), atol=1e-6)
    assert not torch.equal(start.weights().read(name), final.weights().read(name))


def test_slopes_are_those_of_rounded_weights():
    grid, scale = Grid(-2, 1, block=2), torch.tensor([[0.5, 1.0]])
    weight = torch.tensor([[0.4, 9.0, 0.0, -1.3]])  # code 1, clipped to 1, pruned, code -1
    gradient = torch.tensor([[1.0, 2.0, 5.0, 3.0]])
    found = slopes(grid, weight, scale, gradient)
    assert torch.allclose(found, torch.tensor([[(1 - 0.8) + 2 * 1, 3 * (-1 + 1.3)]]))
