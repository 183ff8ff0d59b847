"""The facts of functions whose facts are known."""

import math

import pytest
import torch

from grafs_timm.activations import facts
from grafs_timm.activations.curve import jumps
from grafs_timm.activations.genotype import Gene, Genotype

X = Gene("identity")


def unary(op, *gamma):
    return Genotype(X, X, Gene("left"), Gene(op, *gamma), X, Gene("left"))


@pytest.mark.parametrize(
    ("genotype", "low", "high", "lipschitz", "kinks", "monotone"),
    [
        (unary("relu"), 0, 10, 1, (0.0,), "rising"),
        (unary("leaky_relu"), -0.1, 10, 1, (0.0,), "rising"),
        (unary("abs"), 0, 10, 1, (0.0,), "no"),
        (unary("neg"), -10, 10, 1, (), "falling"),
        (unary("square"), 0, 100, 20, (), "no"),
        (unary("elu"), math.expm1(-10), 10, 1, (), "rising"),
        (unary("gelu"), -0.169971, 10, 1.128904, (), "no"),
        (unary("exp"), math.exp(-10), math.exp(10), math.exp(10), (), "rising"),
        (Genotype(X, X, Gene("left"), Gene("square"), Gene("shift", 2.0), Gene("max")), 1, 100, 20, (-1.0, 2.0), "no"),
        (Genotype(X, X, Gene("left"), X, Gene("scale", 0.0), Gene("max")), 0, 10, 1, (0.0,), "rising"),
        # the root's floor: steepest at a kink between two knots
        (unary("sqrt"), 1e-3, math.sqrt(10), 500, (1e-6,), "rising"),
    ],
)
def test_known_functions(genotype, low, high, lipschitz, kinks, monotone):
    own = facts.of(genotype)
    assert (own.low, own.high) == pytest.approx((low, high), rel=1e-5, abs=1e-6)
    assert own.lipschitz == pytest.approx(lipschitz, rel=1e-5)
    assert own.kinks == pytest.approx(kinks, abs=2e-6)
    assert own.monotone == monotone
    assert own.fp16
    assert own.bf16


def test_the_gain_is_that_of_a_normal_input():
    z = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0))
    assert facts.of(unary("silu")).gain == pytest.approx(1 / torch.nn.functional.silu(z).std().item(), rel=5e-3)


def test_a_steep_place_is_no_kink():
    steep = Genotype(Gene("scale", 30.0), X, Gene("left"), Gene("sigmoid"), X, Gene("left"))
    assert jumps(steep, -10, 10)[0] == ()
    assert facts.of(steep).lipschitz == pytest.approx(7.5, rel=1e-6)


def test_a_function_without_bounds_is_not_finite(monkeypatch):
    class Overflows(torch.nn.Module):
        def forward(self, x):
            return x.float().exp().to(x.dtype)

    monkeypatch.setattr(facts, "activation_class", lambda genotype: Overflows)
    assert not facts.finite_in(unary("exp"), torch.float16)
    assert not facts.finite_in(unary("exp"), torch.bfloat16)
