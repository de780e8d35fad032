"""The gate as a command."""

from tests.support.processes import run


def test_the_gate_says_what_it_lacks(tmp_path):
    assert run("check", tmp_path, "--baseline", "none").returncode == 2
    assert run("check", tmp_path).returncode == 2
    nothing = run("check", tmp_path, "--limits", "laptop-cpu")
    assert nothing.returncode == 3
    assert "is not a finished build" in nothing.stderr
