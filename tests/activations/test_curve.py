"""The polynomials of a function: as near to its formula as float32 computes it, everywhere, kinks and tails included."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from grafs_timm.activations.curve import HIGH, INTERVALS, LOW, _narrow, _wide, curve_of, evaluate, gradient
from grafs_timm.activations.genotype import Gene, Genotype, random_genotype
from grafs_timm.activations.ops import OPS
from grafs_timm.activations.published import get_published, list_published
from grafs_timm.kernels import cpu


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


def shifted(*places: float) -> Callable[[Tensor], Tensor]:
    """A function whose slope rises by 1 at each of ``places``."""
    return lambda x: sum(torch.relu(x - place) for place in places)  # type: ignore[return-value]


def test_a_kink_within_an_interval_splits_it() -> None:
    kinked = Genotype(Gene("shift", -0.3), Gene("identity"), Gene("left"), Gene("relu"), Gene("identity"), Gene("left"))
    curve = curve_of(kinked)
    assert curve.rows.shape == (INTERVALS + 1, 4)
    row = int((0.3 - LOW) / (HIGH - LOW) * INTERVALS)
    assert curve.rows.isnan().any(1).nonzero().flatten().tolist() == [row, INTERVALS]
    assert curve.kinks[:, :2].tolist() == [[row, pytest.approx(0.3)]]
    x = torch.linspace(-1, 1, 20_001)
    y, slope = both(kinked, x)
    torch.testing.assert_close(y, (x.double() - 0.3).clamp(min=0), atol=1e-7, rtol=0)
    on_it = x == 0.3
    assert torch.equal(slope[~on_it], (x > 0.3).double()[~on_it])


def test_no_element_asks_the_formula_within_the_grid() -> None:
    x = 3 * torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    x = x[x.abs() < HIGH]
    for name in list_published():
        _, left = cpu.curve(x, None, curve_of(get_published(name)))
        assert not len(left), name


@pytest.mark.parametrize("places", [(0.3,), (-2.0, 1.7), (0.1, 0.2, 0.3), (3.1622776601683795, -3.1622776601683795)])
def test_intervals_have_a_knot_or_two_cubics_at_each_kink(places: tuple[float, ...]) -> None:
    function = shifted(*places)
    coefficients, knots, width = _wide(function, places)
    assert not coefficients[0].isnan().all()
    middle = knots + width / 2
    good = ~coefficients[0].isnan()
    value = sum(coefficients[power] * (width / 2) ** power for power in range(8))
    torch.testing.assert_close(value[good], function(middle)[good], rtol=0, atol=1e-6)
    rows, split = _narrow(function, places)
    missing = {int(row) for row in rows[:-1].isnan().any(1).nonzero().flatten()}
    assert missing <= {int(row) for row in split[:, 0]}


def test_two_kinks_in_one_interval_ask_the_formula() -> None:
    function = shifted(0.301, 0.302)
    rows, split = _narrow(function, (0.301, 0.302))
    assert rows.isnan().any(1).sum() == 2
    assert not len(split)


def test_a_kink_at_zero_is_a_knot() -> None:
    leaky = Genotype(Gene("leaky_relu"), Gene("identity"), Gene("left"), Gene("identity"), Gene("identity"), Gene("left"))
    curve = curve_of(leaky)
    assert curve.rows.isnan().any(1).nonzero().flatten().tolist() == [INTERVALS]
    assert not curve.wide.isnan().any()
    assert both(leaky, torch.tensor([-1e-6, 1e-6]))[1].tolist() == pytest.approx([0.01, 1.0])


@pytest.mark.parametrize("count", [1, 7, 8, 15, 16, 17, 31, 1023, 1024, 1025, 40_000])
def test_the_loop_ends_where_the_elements_end(count: int) -> None:
    golu, x = get_published("golu"), torch.linspace(-20, 20, count)
    torch.testing.assert_close(evaluate(golu, x, None), golu(x), rtol=1e-6, atol=1e-6)
    g = torch.linspace(-2, 2, count)
    torch.testing.assert_close(evaluate(golu, x, g), gradient(golu, x, g), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_processors_without_avx512_compute_the_same(capability: str) -> None:
    """ATEN_CPU_CAPABILITY makes the loop use the shorter vectors; the numbers agree."""
    code = (
        "import torch; from grafs_timm.activations import published; from grafs_timm.activations.curve import evaluate\n"
        "x = torch.linspace(-15.9, 15.9, 4001)\n"
        "for name in ('golu', 'max_sigmoid', 'grafs2024_vit_c', 'relu6', 'lisht'):\n"
        "    f = published.get_published(name)\n"
        "    print(*(v.hex() for g in (None, torch.ones_like(x)) for v in evaluate(f, x, g).tolist()))"
    )
    said = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True, env=os.environ | more)
        for more in ({}, {"ATEN_CPU_CAPABILITY": capability})
    ]
    ours, others = (torch.tensor([float.fromhex(word) for word in each.stdout.split()]) for each in said)
    torch.testing.assert_close(ours, others, rtol=3e-6, atol=3e-6)


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
