"""The pretended GPU, as the device of everything in these tests."""

import pytest
import torch

from tests.support.pretended_gpu import pretended_gpu


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """Pretend a GPU that CAPTIONER_DEVICE selects, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAPTIONER_DEVICE", "auto")
    monkeypatch.delenv("CAPTIONER_PRECISION", raising=False)
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    precision = torch.get_float32_matmul_precision()
    with pretended_gpu() as pretended:
        yield pretended
    torch.set_float32_matmul_precision(precision)
    torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
