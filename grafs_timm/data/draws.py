"""Draw random numbers that depend on a seed, a place in the training and a purpose alone: a resumed run repeats them."""

from __future__ import annotations

import numpy as np
import torch

# What numbers are drawn for: different streams from one seed.
ORDER, AUGMENT, SPLIT = 1, 2, 3  # of images that are held whole
WINDOWS = 4  # of text
STREAM_ORDER, STREAM_MIX, STREAM_AUGMENT = 4, 5, 6  # of streamed images


def number(*parts: int) -> int:
    """Return an integer in [0, 2⁶³) that depends on ``parts`` alone."""
    state = np.random.SeedSequence([part % 2**64 for part in parts]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def seeded(seed: int, epoch: int, step: int, purpose: int, rank: int = 0) -> torch.Generator:
    """Return a generator on the CPU that depends on these five numbers alone."""
    return torch.Generator().manual_seed(number(seed, epoch, step, purpose, *([rank] if rank else [])))
