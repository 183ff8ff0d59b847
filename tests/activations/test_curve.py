"""The cubics of a found activation: as near to its formula as float32 computes it, everywhere, kinks and tails included."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from grafs_timm.activations.curve import HIGH, INTERVALS, LOW, curve_of, evaluate, gradient
from grafs_timm.activations.genotype import Gene, Genotype, random_genotype
from grafs_timm.activations.ops import OPS


def both(genotype: Genotype, x: Tensor) -> tuple[Tensor, Tensor]:
    one = torch.ones_like(x)
    return evaluate(genotype, x, None).double(), evaluate(genotype, x, one).double()


def exact(genotype: Genotype, x: Tensor) -> tuple[Tensor, Tensor]:
    return genotype(x.double()), gradient(genotype, x.double(), torch.ones_like(x).double())


@pytest.mark.parametrize("seed", range(40))
def test_value_and_slope_are_the_formulas(seed: int) -> None:
    genotype = random_genotype(np.random.default_rng(seed), wide=seed % 2 == 1)
    torch.manual_seed(seed)
    x = torch.cat(
        [2 * torch.randn(30_000), 20 * torch.rand(10_000) - 10, torch.tensor([0.0, -16.0, 16.0, 15.99, -17.0, 300.0])]
    )
    # where two float32 neighbours of x lie on either side of a kink, which slope is the right one is a matter of rounding
    below, above = (exact(genotype, torch.nextafter(x, torch.tensor(s * math.inf)))[1] for s in (-1, 1))
    (y, slope), (expected, expected_slope) = both(genotype, x), exact(genotype, x)
    plain, plain_slope = genotype(x).double(), gradient(genotype, x, torch.ones_like(x)).double()
    smooth = ((above - below).abs() <= 1e-3 * (1 + expected_slope.abs())) & (x != 0)  # torch halves the slope of max(0, 0)
    scale = 1 + expected.abs() + (x * expected_slope).abs()
    ours, formulas = (((v - expected).abs() / scale)[smooth].max() for v in (y, plain))
    assert ours <= 3e-7 + formulas
    scale = scale + expected_slope.abs()
    ours, formulas = (((v - expected_slope).abs() / scale)[smooth].max() for v in (slope, plain_slope))
    assert ours <= 6e-6 + formulas


def test_an_interval_with_a_kink_asks_the_formula() -> None:
    kinked = Genotype(Gene("shift", -0.3), Gene("identity"), Gene("left"), Gene("relu"), Gene("identity"), Gene("left"))
    rows = curve_of(kinked)
    assert rows.shape == (INTERVALS + 1, 4)
    missing = rows.isnan().any(1).nonzero().flatten().tolist()
    assert missing == [int((0.3 - LOW) / (HIGH - LOW) * INTERVALS), INTERVALS]
    x = torch.linspace(-1, 1, 20_001)
    y, slope = both(kinked, x)
    torch.testing.assert_close(y, (x.double() - 0.3).clamp(min=0), atol=1e-7, rtol=0)
    assert torch.equal(slope, (x > 0.3).double())


def test_a_kink_at_zero_is_a_knot() -> None:
    leaky = Genotype(Gene("leaky_relu"), Gene("identity"), Gene("left"), Gene("identity"), Gene("identity"), Gene("left"))
    assert curve_of(leaky).isnan().any(1).nonzero().flatten().tolist() == [INTERVALS]
    assert both(leaky, torch.tensor([-1e-6, 1e-6]))[1].tolist() == pytest.approx([0.01, 1.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("op", [op for op in OPS[1] if op != "const"])
def test_the_slope_at_zero_is_the_formulas_choice(op: str, dtype: torch.dtype) -> None:
    """Layers give exact zeros, at which a kink has two slopes: eager, compiled and scripted training must take the same one."""
    identity = Gene("identity")
    gene = Gene(op, 0.0) if op == "shift" else Gene(op, 1.5) if OPS[1][op].has_gamma else Gene(op)
    genotype = Genotype(gene, identity, Gene("left"), identity, Gene("relu"), Gene("mix", 0.3))
    x = torch.tensor([0.0, -0.0], dtype=dtype)
    g = torch.full_like(x, 2.0)
    expected = gradient(genotype, x.float(), g.float())
    close = 1e-6 if dtype == torch.float32 else 1e-2
    assert evaluate(genotype, x, g).float().tolist() == pytest.approx(expected.tolist(), rel=close)


def test_what_is_not_on_the_curve_is_the_formulas_to_the_bit() -> None:
    genotype = Genotype(Gene("gelu"), Gene("gelu"), Gene("gate"), Gene("asinh"), Gene("identity"), Gene("left"))
    x = torch.tensor([-1e30, -16.01, 16.0, 17.0, 1e30, math.inf, -math.inf, math.nan])
    assert torch.equal(evaluate(genotype, x, None).nan_to_num(7), genotype(x).nan_to_num(7))
    g = torch.full_like(x, 2.0)
    assert torch.equal(evaluate(genotype, x, g).nan_to_num(7), gradient(genotype, x, g).nan_to_num(7))
