"""Compilers that some tests need."""

import shutil

import pytest


def need(*programs):
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed, so this was not checked: {', '.join(missing)}")
