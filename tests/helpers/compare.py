"""What tests compare: logs without clocks, states bit by bit, and what comes true soon."""

import time

import torch

from grafs_timm.runs.tracking import read_log


def timeless(folder):
    """The log without what clocks say."""
    return [{key: value for key, value in line.items() if key not in ("time", "seconds")} for line in read_log(folder)]


def equal(a, b):
    """Of two states: the same keys, values and bits."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def soon(condition, seconds=10):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return False
