"""A known answer: a teacher's activation is found again from the teacher's outputs alone.

Teacher and student: 8 → 16 → 8, one hidden layer, no biases (a bias would absorb a shift of the function, and the answer
would not be unique), the student's weights start at random of their own. The teacher's activation is in the search space
and is none of the usual five. Found means: closer to the teacher's function, in L2 under N(0, 1) up to an inner and an outer
scale, than each of ReLU, GELU, SiLU, ELU and LeakyReLU.
"""

from __future__ import annotations

import pytest
import torch.nn.functional as F
from known_answer import TEACHERS, search

from grafs_timm.activations.similarity import distance

FIXED = {"ReLU": F.relu, "GELU": F.gelu, "SiLU": F.silu, "ELU": F.elu, "LeakyReLU": F.leaky_relu}
SEEDS = range(5)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEACHERS)
def test_the_teachers_activation_is_found(name: str) -> None:
    teacher, won = TEACHERS[name], 0
    fixed = {rival: distance(function, teacher) for rival, function in FIXED.items()}
    print(f"\nteacher {name}; fixed: " + ", ".join(f"{rival} {d:.3f}" for rival, d in fixed.items()))
    for seed in SEEDS:
        found, _ = search(teacher, seed)
        gap = distance(found, teacher)
        won += gap < min(fixed.values())
        print(f"seed {seed}: {gap:.3f}  f(x) = {found.text}")
    assert won >= 4, f"closer than every fixed one in {won} of {len(SEEDS)} seeds"
