"""Checkpoints: only data goes in, and what comes out is whole or an error."""

import errno
import os
import random

import numpy as np
import pytest
import torch

from grafs_timm.errors import RunError
from grafs_timm.runs import checkpoint


@pytest.fixture
def state():
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "best": float("inf"),
        "survivors": {"u1": ["relu", "gelu"]},
        "half": torch.ones(2, dtype=torch.bfloat16),
        "nothing": None,
        "rng": checkpoint.rng_state(),
    }


def test_round_trip(tmp_path, state):
    path = checkpoint.save(tmp_path / "checkpoint.pt", state)
    back = checkpoint.load(path)
    assert back.keys() == state.keys()
    assert torch.equal(back["model"]["weight"], state["model"]["weight"])
    assert back["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
    assert torch.equal(back["optimizer"]["state"][0]["exp_avg"], state["optimizer"]["state"][0]["exp_avg"])
    assert (back["epoch"], back["best"], back["survivors"], back["nothing"]) == (
        3,
        float("inf"),
        {"u1": ["relu", "gelu"]},
        None,
    )
    assert back["half"].dtype == torch.bfloat16
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (torch.nn.ReLU(), r"state\['a'\]\[1\]\['b'\]: .*got torch.nn.modules.activation.ReLU"),
        (np.float64(1), r"state\['a'\]\[1\]\['b'\]: .*got numpy.float64"),
        (np.zeros(2), "numpy.ndarray"),
        (torch.float32, "dtype"),
        ({(1, 2): 3}, "keys are text or whole numbers"),
        ({1, 2}, "builtins.set"),
        (lambda: 0, "function"),
    ],
)
def test_refuses_what_is_not_data(tmp_path, value, place):
    with pytest.raises(TypeError, match=place):
        checkpoint.save(tmp_path / "checkpoint.pt", {"a": [1, {"b": value}]})
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_named(tmp_path, state):
    path = checkpoint.save(tmp_path / "checkpoint.pt", state)
    whole = path.read_bytes()
    middle = whole.index(state["model"]["weight"].numpy().tobytes())  # one flipped bit in a weight
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for content in (b"", whole[:100], whole[: len(whole) // 2], whole[:-10], b"hello", b"\x80\x02}q\x00.", flipped):
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"checkpoint.pt"):
            checkpoint.load(path)
    with pytest.raises(RunError, match="no checkpoint at"):
        checkpoint.load(tmp_path / "absent.pt")


def test_something_else_is_no_checkpoint(tmp_path):
    for other in ([1], {"state_dict": {}}, {"format": checkpoint.FORMAT, "state": 3}):
        torch.save(other, tmp_path / "x.pt")
        with pytest.raises(RunError, match="no checkpoint of this program"):
            checkpoint.load(tmp_path / "x.pt")


class Boobytrap:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_loading_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": checkpoint.FORMAT, "state": {"x": Boobytrap()}}, tmp_path / "x.pt")
    with pytest.raises(RunError, match="damaged or no checkpoint"):
        checkpoint.load(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_keeps_the_old_one(tmp_path, monkeypatch):
    path = checkpoint.save(tmp_path / "checkpoint.pt", {"epoch": 1})

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"No space left.*is kept"):
        checkpoint.save(path, {"epoch": 2})
    assert checkpoint.load(path) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


def draw():
    return torch.rand(2).tolist(), np.random.randn(3).tolist(), random.gauss(0, 1), random.random()


def test_generators_go_on_where_they_were(tmp_path):
    np.random.randn()  # an odd count of draws leaves half a pair cached, in both
    random.gauss(0, 1)
    path = checkpoint.save(tmp_path / "checkpoint.pt", checkpoint.rng_state())
    first = draw()
    assert draw() != first
    checkpoint.set_rng_state(checkpoint.load(path))
    assert draw() == first


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_generators_go_on_where_they_were():
    state = checkpoint.rng_state()
    first = torch.rand(3, device="cuda").tolist()
    checkpoint.set_rng_state(state)
    assert torch.rand(3, device="cuda").tolist() == first


def test_generators_of_more_devices_than_here():
    checkpoint.set_rng_state(checkpoint.rng_state() | {"cuda": []})
