"""A known answer: a teacher's activation is found again from the teacher's outputs alone.

Teacher and student: 8 → 16 → 8, one hidden layer, no biases (a bias would absorb a shift of the function, and the answer
would not be unique), the student's weights start at random of their own. The teacher's activation is in the search space
and is none of the usual five. Found means: closer to the teacher's function, in L2 under N(0, 1) up to an inner and an outer
scale, than each of ReLU, GELU, SiLU, ELU and LeakyReLU.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grafs_timm.formula import Gene, Genotype, distance
from grafs_timm.search import ActivationSearch

FIXED = {"ReLU": F.relu, "GELU": F.gelu, "SiLU": F.silu, "ELU": F.elu, "LeakyReLU": F.leaky_relu}
SEEDS = range(5)


def genotype(u1: str, u2: str, b1: str, u3: str, u4: str, b2: str) -> Genotype:
    return Genotype(*(Gene(op) for op in (u1, u2, b1, u3, u4, b2)))


TEACHERS = {
    "x·tanh(x)": genotype("identity", "tanh", "mul", "identity", "identity", "left"),
    "ReLU(x)²": genotype("relu", "identity", "left", "square", "identity", "left"),
}


def network(activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16, bias=False), activation, nn.Linear(16, 8, bias=False))


class Wrapped(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def search(teacher_function: Genotype, seed: int, epochs: int = 90, steps: int = 60, size: int = 256) -> Genotype:
    torch.manual_seed(1000 + seed)
    teacher = network(Wrapped(teacher_function)).requires_grad_(False)
    for layer in (teacher[0], teacher[2]):
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    x = torch.randn(20_000, 8)
    y = teacher(x)
    y = y / y.std(0)
    torch.manual_seed(seed)
    student = network(nn.ReLU())
    activation_search = ActivationSearch(student, epochs, warm_start=0, shrink_start=30, lr=1e-2)
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    for _ in range(epochs):
        for _ in range(steps):
            outer, inner = torch.randint(15_000, 20_000, (size,)), torch.randint(15_000, (size,))
            activation_search.architecture_step(lambda i=outer: F.mse_loss(student(x[i]), y[i]))
            loss = F.mse_loss(student(x[inner]), y[inner])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        activation_search.end_epoch()
    return activation_search.genotype()


@pytest.mark.slow
@pytest.mark.parametrize("name", TEACHERS)
def test_the_teachers_activation_is_found(name: str) -> None:
    teacher, won = TEACHERS[name], 0
    fixed = {rival: distance(function, teacher) for rival, function in FIXED.items()}
    print(f"\nteacher {name}; fixed: " + ", ".join(f"{rival} {d:.3f}" for rival, d in fixed.items()))
    for seed in SEEDS:
        found = search(teacher, seed)
        gap = distance(found, teacher)
        won += gap < min(fixed.values())
        print(f"seed {seed}: {gap:.3f}  f(x) = {found.text}")
    assert won >= 4, f"closer than every fixed one in {won} of {len(SEEDS)} seeds"
