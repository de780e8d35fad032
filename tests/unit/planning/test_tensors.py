import pytest

from edgeprune.planning.grid import Grid
from edgeprune.planning.patterns import UNSTRUCTURED, parse
from edgeprune.planning.tensors import Role, Storage, TensorPlan, block_of, role_of, table


@pytest.mark.parametrize(
    ("name", "role", "block"),
    [
        ("model.embed_tokens.weight", Role.EMBEDDING, None),
        ("token_embd.weight", Role.EMBEDDING, None),
        ("lm_head.weight", Role.HEAD, None),
        ("output.weight", Role.HEAD, None),
        ("model.layers.3.self_attn.q_proj.weight", Role.ATTENTION, 3),
        ("blk.12.attn_output.weight", Role.ATTENTION, 12),
        ("model.layers.0.mlp.gate_proj.weight", Role.MLP, 0),
        ("blk.0.ffn_gate.weight", Role.MLP, 0),
        ("model.layers.1.block_sparse_moe.gate.weight", Role.ROUTER, 1),
        ("blk.1.ffn_gate_inp.weight", Role.ROUTER, 1),
        ("model.layers.1.block_sparse_moe.experts.3.w1.weight", Role.MLP, 1),
    ],
)
def test_names_say_what_a_matrix_does(name, role, block):
    assert role_of(name, (8, 8)) == role
    assert block_of(name) == block


def row(name: str, shape: tuple[int, ...] = (4, 8), grid: Grid | None = None) -> TensorPlan:
    return TensorPlan(name, name, shape, Storage("Q8_0", 40, grid))


def test_routers_norms_and_embeddings_are_not_pruned():
    rows = [row("blk.0.ffn_gate_inp.weight"), row("token_embd.weight"), row("blk.0.norm", (8,))]
    assert not any(one.prunable for one in rows)
    assert row("blk.0.ffn_gate.weight").prunable


def test_a_table_hands_out_budgets_and_grids():
    grid = Grid(-7, 7)
    plan = table([row("blk.0.ffn_up.weight", grid=grid), row("blk.0.ffn_down.weight")])
    plan = plan.with_zeros({"blk.0.ffn_up.weight": 12}, parse("2:4"), 0.5)
    assert (plan.zeros, plan.bytes) == (12, 80)
    assert plan.grids == {"blk.0.ffn_up.weight": grid}
    assert plan.without_grids().grids == {}
    budget = plan.budget("blk.0.ffn_up.weight", 32)
    assert (budget.zeros, budget.pattern.name) == (12, "2:4")
    assert plan.budget("blk.0.ffn_down.weight", 32).pattern == UNSTRUCTURED
    part_of_a_stack = plan.budget("blk.0.experts.3.up.weight", 32)
    assert (part_of_a_stack.zeros, part_of_a_stack.pattern.name) == (16, "2:4")
