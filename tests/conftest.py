import pytest
import torch


@pytest.fixture
def plain(monkeypatch):
    """Computes as a process on its own with one thread and without a compiler does: for comparisons bit by bit."""
    from grafs_timm import compiled

    monkeypatch.setattr(compiled, "plain_only", True)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
