"""Bugs keep their traceback; other errors are one line."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeprune.support.errors import EXIT_BUG, MachineError, known
from tests.support.processes import run

_BUG = """
import sys
from edgeprune.cli import cli, main, tasks
def broken(**_):
    def inner():
        raise {error}
    inner()
tasks.command.callback = broken
sys.argv = ["edgeprune", *sys.argv[1:]]
main()
"""


def raised(call) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        call()
    return caught.value


def test_onnxruntime_without_memory_is_out_of_memory(tmp_path):
    """Its arena's own error, of a tensor that no machine holds."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("ConstantOfShape", ["shape"], ["y"])],
        "huge",
        [helper.make_tensor_value_info("shape", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, tmp_path / "huge.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "huge.onnx"))
    shape = np.array([1 << 48], np.int64)
    told = known(raised(lambda: session.run(None, {"shape": shape})))
    assert isinstance(told, MachineError)


def broken(error: str, *arguments: str, **environment: str):
    return subprocess.run(
        [sys.executable, "-c", _BUG.format(error=error), *arguments],
        capture_output=True, text=True, check=False, env=os.environ | environment,
    )  # fmt: skip


def test_a_bug_is_one_line_that_says_where_its_traceback_is(tmp_path):
    done = broken("KeyError('blk.0')", "tasks", TMPDIR=str(tmp_path))
    assert done.returncode == EXIT_BUG
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("This is a bug in edgeprune: KeyError: 'blk.0' (traceback in ")
    (kept,) = tmp_path.glob("edgeprune-bug-*.txt")
    assert str(kept) in line
    assert "in inner" in kept.read_text()


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [(("--debug", "tasks"), {}), (("tasks",), {"EDGEPRUNE_DEBUG": "1"})],
)
def test_debug_shows_the_traceback_of_every_error(tmp_path, arguments, environment):
    for error, code in (
        ("KeyError('blk.0')", EXIT_BUG),
        ("__import__('edgeprune.support.errors').support.errors.InputError('no rows')", 3),
        ("OSError(28, 'No space left on device', 'x')", 4),
    ):
        done = broken(error, *arguments, TMPDIR=str(tmp_path), **environment)
        assert done.returncode == code
        assert "in inner" in done.stderr
    assert not list(Path(tmp_path).glob("edgeprune-bug-*"))
    assert "in inner" not in broken("OSError(28, 'No space left', 'x')", "tasks").stderr


def test_debug_is_an_option_of_the_command(tmp_path):
    done = run("--debug", "inspect", tmp_path / "none.gguf")
    assert done.returncode == 3
    assert "Traceback" in done.stderr
    assert "No such GGUF file" in done.stderr.splitlines()[-1]
