"""Files and folders appear whole or not at all."""

import errno
from pathlib import Path

import pytest

from edgeprune.support import files as edge_files
from edgeprune.support.files import atomic_folder, atomic_path


def fill_up(target: Path) -> None:
    with atomic_path(target) as path:
        path.write_text("half of wh")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))


def stop_half_way(target: Path) -> None:
    with atomic_folder(target) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError("half way")


def test_files_appear_whole_or_not_at_all(tmp_path):
    target = tmp_path / "whole.txt"
    edge_files.write_text(target, "before")
    with pytest.raises(OSError, match="No space left"):
        fill_up(target)
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["whole.txt"]


def test_folders_appear_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError, match="half way"):
        stop_half_way(tmp_path / "f")
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(tmp_path / "f") as folder:
        (folder / "whole").write_text("x")
    assert (tmp_path / "f" / "whole").read_text() == "x"
