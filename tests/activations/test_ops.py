"""Every row of the table of operations, against what the table says of itself: one test a property, all rows."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from operations import BOUNDED, apply, expanded, kinks
from torch import Tensor

from grafs_timm.activations import ops
from grafs_timm.activations.ops import LIFTED, SEARCH, Limits, Op

ALL = [op for rows in ops.OPS.values() for op in rows.values()]
UNARY, BINARY = list(ops.OPS[1].values()), list(ops.OPS[2].values())
GAMMAS = (1.0, 0.0, -2.75, 0.3, ops.GAMMA_MAX, -ops.GAMMA_MAX)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Which inputs a row reads: a NaN in any other is not its concern.
READS = {"const": (), "left": (0,), "right": (1,)}

every_op = pytest.mark.parametrize("op", ALL, ids=lambda op: f"{op.name}/{op.arity}")
every_limit = pytest.mark.parametrize("limits", [SEARCH, LIFTED], ids=["search", "lifted"])
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def gammas(op: Op) -> tuple[float, ...]:
    return GAMMAS if op.has_gamma else (1.0,)


def reads(op: Op) -> tuple[int, ...]:
    return READS.get(op.name, tuple(range(op.arity)))


def combined(op: Op, values: list[float]) -> tuple[list[float], ...]:
    """The values for a unary; for a binary every pair of them, as two lists."""
    return tuple(list(column) for column in zip(*product(values, repeat=op.arity), strict=True))


def smallest(dtype: torch.dtype) -> float:
    """The smallest subnormal number."""
    return torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps


def edges(dtype: torch.dtype) -> list[float]:
    """Finite numbers at which a careless formula overflows, divides by 0, or rounds away what matters."""
    info = torch.finfo(dtype)
    sizes = [0.0, smallest(dtype), info.tiny, 1e-3, 0.5, 1.0, 12.0, 89.0, 300.0, 65504.0, 1e30, info.max]
    return [sign * size for size in sizes if size <= info.max for sign in (1.0, -1.0)]


def grid(op: Op) -> list[float]:
    return np.linspace(-12, 12, 481).tolist() if op.arity == 1 else np.linspace(-12, 12, 41).tolist()


def expected(op: Op, inputs: tuple[Tensor, ...], gamma: float, limits: Limits) -> np.ndarray:
    """The reference at the inputs as their dtype rounded them, saturated where that dtype ends."""
    top = torch.finfo(inputs[0].dtype).max
    inside = Limits(min(limits.bound, top), limits.floor)
    with np.errstate(all="ignore"):
        value = op.reference(*(x.double().numpy() for x in inputs), gamma, inside)
    return np.clip(value, -top, top)


def assert_near(op: Op, inputs: tuple[Tensor, ...], gamma: float, limits: Limits) -> None:
    dtype = inputs[0].dtype
    got = apply(op, *inputs, gamma=gamma, limits=limits)
    assert got.dtype == dtype
    want = expected(op, inputs, gamma, limits)
    computed = torch.finfo(dtype if dtype.itemsize >= 4 else torch.float32).eps
    sizes = [np.abs(x.double().numpy()) for x in inputs]
    slack = 16 * computed * (1 + np.abs(want)) + smallest(dtype)
    if dtype.itemsize < 4:  # rounded once to 16 bit: half an eps
        slack += 0.51 * torch.finfo(dtype).eps * np.abs(want)
    if op.name in ("shift", "mix"):  # what cancels is judged by the size of what it adds
        slack += sum(4 * computed * size for size in sizes) + 4 * computed * abs(gamma) * (op.name == "shift")
    if op.name == "gate":  # the sigmoid may end at the smallest normal number, and a large x₂ shows it
        slack += torch.finfo(torch.promote_types(dtype, torch.float32)).tiny * sizes[1]
    off = np.abs(got.double().numpy() - want)
    worst = int(np.argmax(off - slack))
    at = [x.flatten()[worst].item() for x in inputs]
    assert (off <= slack).all(), f"{op.name}({at}, γ={gamma}) = {got.flatten()[worst]}, reference {want.flat[worst]}"


def test_table_has_the_papers_counts_and_order():
    names, wide = ops.candidates(), ops.candidates(wide=True)
    assert list(names) == list(ops.SLOTS) == ["u1", "u2", "b1", "u3", "u4", "b2"]
    assert [len(names[slot]) for slot in names] == [23, 23, 9, 23, 23, 9]
    assert [len(wide[slot]) for slot in wide] == [29, 29, 12, 29, 29, 12]
    assert sum(map(len, names.values())) == 110
    assert all(set(names[slot]) < set(wide[slot]) for slot in names)
    assert [op.name for op in ALL if op.has_gamma] == ["shift", "scale", "const", "mix"]


@every_limit
@every_op
def test_gradient_agrees_with_finite_differences(op: Op, limits: Limits):
    values = [-3.7, -2.3, -1.1, -0.31, 0.004, 0.27, 0.9, 1.7, 2.9, 4.1]
    values = [v for v in values if all(abs(v - kink) > 1e-4 for kink in kinks(op, limits))]
    columns = combined(op, values)
    if op.name in ("max", "min", "laplace_kernel"):
        columns = tuple(zip(*[(a, b) for a, b in zip(*columns, strict=True) if a != b], strict=True))
    if op.name == "div":  # kinks where |x₂| = 0.01 and where the quotient ends
        columns = tuple(zip(*[(a, b) for a, b in zip(*columns, strict=True) if abs(b) > 0.02], strict=True))
    inputs = [torch.tensor(column, dtype=torch.float64, requires_grad=True) for column in columns]
    gamma = torch.full_like(inputs[0], 0.7, requires_grad=True) if op.has_gamma else None
    learnt = [*inputs, gamma] if gamma is not None else inputs

    def f(*given: Tensor) -> Tensor:
        return apply(op, *given[: op.arity], gamma=given[-1] if op.has_gamma else None, limits=limits)

    assert torch.autograd.gradcheck(f, learnt, eps=1e-7, atol=1e-5, rtol=1e-5)


@every_dtype
@every_limit
@every_op
def test_value_is_the_references(op: Op, limits: Limits, dtype: torch.dtype):
    for values in (grid(op), edges(dtype)):
        inputs = tuple(torch.tensor(column, dtype=dtype) for column in combined(op, values))
        for gamma in gammas(op):
            assert_near(op, inputs, gamma, limits)


@every_dtype
@every_limit
@every_op
def test_finite_inputs_give_finite_values_and_gradients(op: Op, limits: Limits, dtype: torch.dtype):
    columns = combined(op, edges(dtype))
    for start in gammas(op):
        inputs = [torch.tensor(column, dtype=dtype, requires_grad=True) for column in columns]
        gamma = torch.full(inputs[0].shape, start, dtype=torch.promote_types(dtype, torch.float32), requires_grad=True)
        value = apply(op, *inputs, gamma=gamma, limits=limits)
        assert value.isfinite().all(), (start, [x[~value.isfinite()] for x in inputs])
        if value.requires_grad:
            value.backward(torch.ones_like(value))
        for leaf in (*inputs, gamma):
            if leaf.grad is not None:
                bad = ~leaf.grad.isfinite()
                assert not bad.any(), (start, [x[bad] for x in inputs])


@pytest.mark.parametrize("op", [op for op in ALL if op.has_gamma], ids=lambda op: op.name)
def test_gamma_as_a_number_and_as_a_scalar_tensor_agree(op: Op):
    inputs = [torch.linspace(-3, 3, 7) * (i + 1) for i in range(op.arity)]
    for gamma in GAMMAS:
        torch.testing.assert_close(apply(op, *inputs, gamma=gamma), apply(op, *inputs, gamma=torch.tensor(gamma)))


@every_dtype
@every_op
def test_nan_stays_nan_and_infinity_saturates(op: Op, dtype: torch.dtype):
    for place in range(op.arity):
        inputs = [torch.full((3,), 0.5, dtype=dtype) for _ in range(op.arity)]
        inputs[place] = torch.tensor([math.nan, 0.5, math.nan], dtype=dtype)
        want = [True, False, True] if place in reads(op) else [False] * 3
        assert apply(op, *inputs, gamma=1.0).isnan().tolist() == want

    top = torch.finfo(dtype).max
    inputs = tuple(torch.tensor(c, dtype=dtype) for c in combined(op, [math.inf, -math.inf, 0.0, 1.5, -1.5]))
    got = apply(op, *inputs, gamma=0.7).double().clamp(-top, top).numpy()
    want = expected(op, inputs, 0.7, SEARCH)
    near = np.isclose(got, want, rtol=8 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps, equal_nan=True)
    assert (near | np.isnan(got)).all(), (got, want)
    finite = np.isfinite(np.stack([x.double().numpy() for x in inputs])).all(0)
    assert not np.isnan(got[finite]).any()


@every_dtype
@every_op
def test_any_shape_and_layout(op: Op, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 3, 4, 5, generator=generator).to(dtype) for _ in range(op.arity)]
    want = apply(op, *inputs, gamma=0.7)

    def same(got: Tensor, wanted: Tensor) -> bool:
        return got.shape == wanted.shape and torch.allclose(got.double(), wanted.double(), rtol=1e-6, atol=1e-6)

    last = apply(op, *(x.to(memory_format=torch.channels_last) for x in inputs), gamma=0.7)
    assert same(last, want)
    assert same(apply(op, *(x.transpose(1, 3) for x in inputs), gamma=0.7), want.transpose(1, 3))
    assert same(apply(op, *(x[..., ::2] for x in inputs), gamma=0.7), want[..., ::2])
    assert same(apply(op, *(x[0, 0, 0, 0] for x in inputs), gamma=0.7), want[0, 0, 0, 0])
    assert apply(op, *(x[:0] for x in inputs), gamma=0.7).shape == (0, 3, 4, 5)


@every_dtype
@every_limit
@pytest.mark.parametrize("op", [op for op in ALL if (op.name, op.arity) in BOUNDED], ids=lambda op: f"{op.name}/{op.arity}")
def test_bounded_operations_end_at_the_bound(op: Op, limits: Limits, dtype: torch.dtype):
    columns = combined(op, [*grid(op), *edges(dtype)])
    inputs = [torch.tensor(column, dtype=dtype, requires_grad=True) for column in columns]
    value = apply(op, *inputs, limits=limits)
    bound = min(limits.bound, torch.finfo(dtype).max)
    eps = max(torch.finfo(dtype).eps, 16 * torch.finfo(torch.float32).eps if dtype.itemsize < 8 else 0)
    assert value.abs().max() <= bound * (1 + 16 * eps)

    # Well beyond the bound, by the reference without one, the gradient is 0.
    with np.errstate(all="ignore"):
        free = op.reference(*(x.detach().double().numpy() for x in inputs), 1.0, Limits(bound=1e300))
    end = min(bound, 100.0) if op.name == "div" else bound  # the table's own end of a quotient
    if op.name == "div":
        x, y = (t.detach().double().numpy() for t in inputs)
        with np.errstate(over="ignore"):
            free = x / np.where(np.abs(y) < 0.01, 0.01, y)
    outside = torch.from_numpy(np.abs(free) > end * 1.01)
    assert outside.any()
    value.backward(torch.ones_like(value))
    for x in inputs:
        assert (x.grad[outside] == 0).all()


@every_op
def test_symbolic_form_is_the_reference(op: Op):
    import sympy

    from grafs_timm.activations import formula

    # Where neither bound nor safe denominator plays a part.
    columns = combined(op, [-2.1, -0.9, -0.02, 0.03, 0.4, 1.3, 2.05])
    symbol = (formula.X, sympy.Symbol("y", real=True))[: op.arity]
    form = expanded(op.sympy(formula.namespace(LIFTED), *symbol, 0.3))
    value = sympy.lambdify(symbol, form, ["numpy", "scipy"])(*map(np.array, columns))
    want = op.reference(*map(np.array, columns), 0.3, Limits(1e9, LIFTED.floor))
    if op.name == "div":
        want = np.divide(*columns)
        assert np.allclose(op.reference(*map(np.array, columns), 0.3, SEARCH), np.clip(want, -10, 10))
    assert np.allclose(value * np.ones(len(columns[0])), want, rtol=1e-12, atol=1e-12)


def test_lookup_names_the_nearest():
    assert ops.get("gelu", 1) is ops.OPS[1]["gelu"]
    with pytest.raises(KeyError, match="no unary operation 'gellu'; nearest: gelu"):
        ops.get("gellu", 1)
    with pytest.raises(KeyError, match="no binary operation"):
        ops.get("gelu", 2)
    with pytest.raises(KeyError, match="no unary operation"):
        ops.get(["gelu"], 1)


@pytest.mark.parametrize("kwargs", [{"bound": 0.0}, {"bound": math.inf}, {"bound": math.nan}, {"floor": 0.0}, {"floor": -1.0}])
def test_limits_must_be_positive_and_finite(kwargs: dict[str, float]):
    with pytest.raises(ValueError, match="limits must be positive and finite"):
        Limits(**kwargs)
