"""One thread for every test and every process that a test starts: the cases are small, and waking threads costs more."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import pytest
import torch


@pytest.fixture(autouse=True)
def torch_settings():
    """What a run sets for its process, each test gives back."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
