"""When candidates are dropped: many early, few late.

Source: Strack, Safari, Hutter 2024: N = 110 − 6 = 104 drops at epochs eᵢ = start − 1 + ⌊logspace(0, log₁₀(E − start), N)ᵢ⌋.
"""

from __future__ import annotations

from collections import Counter

import numpy as np


def drop_schedule(start: int, end: int, drops: int = 104) -> dict[int, int]:
    """How many candidates are dropped when so many epochs (or iterations) are over: {epochs done: drops}.

    The last value of the logarithmic series is end − start up to rounding, on which its floor depends; it counts as just
    below, so that all drops are over when end − 2 epochs are and the discrete cell still trains for two.
    ValueError where end is less than start + 2 or start less than 1.
    """
    if start < 1 or end < start + 2:
        raise ValueError(
            f"shrink_start is at least 1 and leaves two epochs after it, got shrink_start={start} of {end} epochs; "
            f"take {max(start, 1) + 2} epochs or more" + (", or an earlier shrink_start" if start > 1 else "")
        )
    series = np.logspace(0, np.log10(end - start), drops)
    epochs = start - 1 + np.minimum(np.floor(series), end - start - 1).astype(int)
    return dict(sorted(Counter(epochs.tolist()).items()))
