"""Schedule when candidates are dropped: many early, few late.

Source: Strack, Safari, Hutter 2024: N = 110 − 6 = 104 drops at epochs eᵢ = start − 1 + ⌊logspace(0, log₁₀(E − start), N)ᵢ⌋.
"""

from __future__ import annotations

from collections import Counter

import numpy as np


def drop_schedule(start: int, end: int, drops: int = 104) -> dict[int, int]:
    """Return how many candidates to drop after which epoch.

    The last value of the logarithmic series is end − start up to rounding, which decides its floor. It counts as just below:
    all drops are done after end − 2 epochs, and the discrete cell trains for two more.

    Args:
        start: The first epoch (or iteration) with drops.
        end: The number of epochs.
        drops: The number of drops.

    Returns:
        {number of epochs done: drops}.

    Raises:
        ValueError: start < 1 or end < start + 2.

    >>> drop_schedule(start=2, end=6, drops=8)
    {2: 4, 3: 2, 4: 2}
    """
    if start < 1 or end < start + 2:
        raise ValueError(
            f"shrink_start is at least 1 and leaves two epochs after it, got shrink_start={start} of {end} epochs; "
            f"take {max(start, 1) + 2} epochs or more" + (", or an earlier shrink_start" if start > 1 else "")
        )
    series = np.logspace(0, np.log10(end - start), drops)
    epochs = start - 1 + np.minimum(np.floor(series), end - start - 1).astype(int)
    return dict(sorted(Counter(epochs.tolist()).items()))
