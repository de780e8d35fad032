"""Which errors are the user's or the machine's, and which are bugs that keep their traceback."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeprune.support.errors import EXIT_BUG, InputError, MachineError, known
from tests.test_cli import run

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


@pytest.mark.parametrize(
    "call",
    [
        lambda: torch.empty(1 << 50, dtype=torch.uint8),
        lambda: np.ones(1 << 50),
        lambda: bytearray(1 << 50),
        lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried ...")),
        lambda: (_ for _ in ()).throw(OSError(errno.ENOMEM, "Cannot allocate memory")),
    ],
)
def test_what_allocators_say_is_out_of_memory(call):
    told = known(raised(call))
    assert isinstance(told, MachineError)
    assert "Out of memory" in str(told)


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


@pytest.mark.parametrize(
    "bug",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cannot pin 'torch.cuda.FloatTensor': only dense CPU memory can be pinned"),
        FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "builds/x/work/rows.json"),
        ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)),
        OSError("something of a library's own"),
        PermissionError(errno.EPERM, os.strerror(errno.EPERM)),  # of no file
    ],
)
def test_bugs_are_no_mistakes_of_the_user(bug):
    assert known(bug) is None


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.ENOSPC, MachineError, "disk is full"),
        (errno.EDQUOT, MachineError, "disk is full"),
        (errno.EROFS, MachineError, "No permission"),
        (errno.EACCES, MachineError, "No permission"),
        (errno.ENOTDIR, InputError, "Not a directory"),
    ],
)
def test_disks_and_permissions_are_told(code, kind, words):
    told = known(OSError(code, os.strerror(code), "/mnt/usb/out"))
    assert isinstance(told, kind)
    assert words in str(told)
    assert "/mnt/usb/out" in str(told)


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
        ("__import__('edgeprune.support.errors').errors.InputError('no rows')", 3),
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
