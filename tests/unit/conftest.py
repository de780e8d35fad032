"""Tests that start no process, and load neither a runtime nor the real model."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Matrices are too small here for two threads to be any faster."""
    torch.set_num_threads(1)
