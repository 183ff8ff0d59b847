"""The table of operations a cell chooses from: one row an operation, and every other module reads it here.

Source: Strack, Safari, Hutter 2024 (arXiv 2408.06820), the unary and binary candidates of the search space. What
differs from the paper's released behaviour: growth is stopped on the *output* of an operation (as the paper states),
and every operation has a finite value and a finite gradient for every finite input in float32, bfloat16 and float16.

A row's ``compute`` takes float32 or float64 tensors; ``Op.__call__`` adds the care for 16-bit inputs. ``reference`` is
the same function in NumPy float64, written apart, for the tests. ``sympy`` builds the symbolic form from a namespace
that ``symbols.py`` hands in, so that importing this module imports no sympy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy  # loads its parts when they are used
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..utils.dtypes import DTYPES, refuse
from ..utils.suggest import nearest

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """Where growth stops: outputs end at ±``bound`` (ℓ, gradient zero beyond), the root has ``floor`` (ε) under it."""

    bound: float = 10.0
    floor: float = 1e-3

    def __post_init__(self) -> None:
        if not (0 < self.bound < math.inf and 0 < self.floor < math.inf):
            raise ValueError(f"limits must be positive and finite, got bound={self.bound}, floor={self.floor}")


SEARCH = Limits()
# The paper lifts to ℓ = 1e7, ε = 0. A floor of exactly 0 has an infinite slope at 0; 1e-6 keeps the slope below 500.
LIFTED = Limits(bound=1e7, floor=1e-6)

GAMMA_MAX = 1e4  # a learnt constant beyond this overflows float16 in the gradient of γx
SAFE_DENOMINATOR = 1e-2  # smallest |x₂| that x₁/x₂ divides by
_DIV_BOUND = 100.0  # |x₁/x₂| ends here even when lifted: with the denominator above, the gradient stays inside float16
_LOG_OFFSET = 1e-3  # ε of log(|x| + ε), kept when lifted: 1/ε is the slope at 0
_ASINH_SWITCH = 1e8  # beyond it asinh is its own asymptote, before x² can overflow


@dataclass(frozen=True)
class Op:
    """One candidate operation.

    ``compute(*inputs, gamma, limits)`` maps tensors of one shape, float32 or float64, to that shape; ``gamma`` is a
    scalar tensor or float for rows with ``gamma_init`` (mean and standard deviation of its start) and ignored
    elsewhere. ``kinks(limits)`` lists where a unary's derivative jumps. ``bounded`` rows saturate at ℓ. ``wide`` rows
    belong to the optional wider set.
    """

    name: str
    symbol: str
    arity: int
    compute: Callable[..., Tensor]
    reference: Callable[..., Array]
    sympy: Callable[..., Any]
    bounded: bool = False
    gamma_init: tuple[float, float] | None = None
    wide: bool = False
    domain: str = "all x"
    kinks: Callable[[Limits], tuple[float, ...]] = field(default=lambda limits: ())

    @property
    def has_gamma(self) -> bool:
        return self.gamma_init is not None

    def __call__(self, *inputs: Tensor, gamma: Tensor | float | None = None, limits: Limits = SEARCH) -> Tensor:
        """Apply to ``arity`` floating tensors of one shape and dtype; 16-bit inputs are computed in float32.

        The result has the inputs' dtype and saturates at that dtype's largest finite number.
        Raises TensorError for other dtypes and ValueError for a wrong count of inputs or a missing γ.
        """
        if len(inputs) != self.arity:
            raise ValueError(f"{self.name} takes {self.arity} input(s), got {len(inputs)}")
        if self.has_gamma and gamma is None:
            raise ValueError(f"{self.name} needs its constant gamma")
        dtype = inputs[0].dtype
        if dtype not in DTYPES:
            refuse(self.name, dtype, inputs[0].device)
        if dtype in (torch.float32, torch.float64):
            return self.compute(*inputs, gamma=gamma, limits=limits)
        top = torch.finfo(dtype).max
        inside = Limits(min(limits.bound, top), limits.floor)
        result = self.compute(*(x.float() for x in inputs), gamma=gamma, limits=inside)
        return result.clamp(-top, top).to(dtype)


def _finite(y: Tensor) -> Tensor:
    """Saturate at the dtype's largest finite number, so that a sum of two large numbers stays a number."""
    top = torch.finfo(y.dtype).max
    return y.clamp(-top, top)


def _full(x: Tensor, gamma: Tensor | float) -> Tensor:
    return gamma.to(x).expand(x.shape) if isinstance(gamma, Tensor) else torch.full_like(x, gamma)


def _asinh(x: Tensor, gamma: Any, limits: Limits) -> Tensor:
    near = x.clamp(-_ASINH_SWITCH, _ASINH_SWITCH)
    return near.asinh() + x.sign() * (x.abs().clamp(min=_ASINH_SWITCH) / _ASINH_SWITCH).log()


def _sinc(x: Tensor, gamma: Any, limits: Limits) -> Tensor:
    small = x.abs() < 1e-2
    square = torch.where(small, x, 0.0).square()
    return torch.where(small, 1 - square / 6 * (1 - square / 20), x.sin() / torch.where(small, 1.0, x))


def _div(x: Tensor, y: Tensor, gamma: Any, limits: Limits) -> Tensor:
    bound = min(limits.bound, _DIV_BOUND)
    sign = torch.where(y < 0, -1.0, 1.0).to(y)
    denominator = torch.where(y.abs() < SAFE_DENOMINATOR, sign * SAFE_DENOMINATOR, y)
    over = x.abs() > bound * denominator.abs()
    return torch.where(over, bound * x.sign() * sign, torch.where(over, 0.0, x) / denominator)


def _div_reference(x: Array, y: Array, g: float, limits: Limits) -> Array:
    bound = min(limits.bound, _DIV_BOUND)
    sign = np.where(y < 0, -1.0, 1.0)
    with np.errstate(over="ignore"):
        return np.clip(x / (sign * np.maximum(np.abs(y), SAFE_DENOMINATOR)), -bound, bound)


def _sigmoid(x: Array) -> Array:
    return scipy.special.expit(x)


def _saturated(f: Callable[[Array], Array]) -> Callable[..., Array]:
    """The NumPy reference of a bounded row: the plain function, cut at ±ℓ."""

    def reference(x: Array, g: float, limits: Limits) -> Array:
        with np.errstate(over="ignore"):
            return np.clip(f(x), -limits.bound, limits.bound)

    return reference


def _at_zero(limits: Limits) -> tuple[float, ...]:
    return (0.0,)


_GAMMA = (1.0, 0.25)

_UNARY = (
    Op("identity", "x", 1, lambda x, gamma, limits: x, lambda x, g, L: x, lambda S, x, g: x),
    Op("neg", "−x", 1, lambda x, gamma, limits: -x, lambda x, g, L: -x, lambda S, x, g: -x),
    Op(
        "abs", "|x|", 1,
        lambda x, gamma, limits: x.abs(), lambda x, g, L: np.abs(x), lambda S, x, g: S.Abs(x), kinks=_at_zero,
    ),
    Op(
        "square", "x²", 1,
        lambda x, gamma, limits: (x * x).clamp(max=limits.bound),
        _saturated(lambda x: x**2), lambda S, x, g: x**2,
        bounded=True, kinks=lambda L: (-math.sqrt(L.bound), math.sqrt(L.bound)),
    ),
    Op(
        "cube", "x³", 1,
        lambda x, gamma, limits: x.clamp(-math.cbrt(limits.bound), math.cbrt(limits.bound)).pow(3),
        _saturated(lambda x: x**3), lambda S, x, g: x**3,
        bounded=True, kinks=lambda L: (-math.cbrt(L.bound), math.cbrt(L.bound)),
    ),
    Op(
        "sqrt", "√max(x, ε)", 1,
        lambda x, gamma, limits: x.clamp(min=limits.floor).sqrt(),
        lambda x, g, L: np.sqrt(np.maximum(x, L.floor)), lambda S, x, g: S.Root(x),
        domain="ε under the root where x < ε", kinks=lambda L: (L.floor,),
    ),
    Op(
        "shift", "x + γ", 1,
        lambda x, gamma, limits: _finite(x + gamma), lambda x, g, L: x + g, lambda S, x, g: x + g, gamma_init=_GAMMA,
    ),
    Op(
        "scale", "γx", 1,
        lambda x, gamma, limits: _finite(x * gamma), lambda x, g, L: x * g, lambda S, x, g: g * x, gamma_init=_GAMMA,
    ),
    Op(
        "const", "γ", 1,
        lambda x, gamma, limits: _full(x, gamma), lambda x, g, L: np.full_like(x, g), lambda S, x, g: g,
        gamma_init=_GAMMA,
    ),
    Op(
        "exp", "eˣ", 1,
        lambda x, gamma, limits: x.clamp(max=math.log(limits.bound)).exp(),
        _saturated(np.exp), lambda S, x, g: S.exp(x), bounded=True, kinks=lambda L: (math.log(L.bound),),
    ),
    Op(
        "sinh", "sinh x", 1,
        lambda x, gamma, limits: x.clamp(-math.asinh(limits.bound), math.asinh(limits.bound)).sinh(),
        _saturated(np.sinh), lambda S, x, g: S.sinh(x),
        bounded=True, kinks=lambda L: (-math.asinh(L.bound), math.asinh(L.bound)),
    ),
    Op("tanh", "tanh x", 1, lambda x, gamma, limits: x.tanh(), lambda x, g, L: np.tanh(x), lambda S, x, g: S.tanh(x)),
    Op("asinh", "asinh x", 1, _asinh, lambda x, g, L: np.arcsinh(x), lambda S, x, g: S.asinh(x)),
    Op("atan", "atan x", 1, lambda x, gamma, limits: x.atan(), lambda x, g, L: np.arctan(x), lambda S, x, g: S.atan(x)),
    Op(
        "relu", "max(x, 0)", 1,
        lambda x, gamma, limits: F.relu(x), lambda x, g, L: np.maximum(x, 0), lambda S, x, g: S.ReLU(x), kinks=_at_zero,
    ),
    Op(
        "neg_part", "min(x, 0)", 1,
        lambda x, gamma, limits: -F.relu(-x), lambda x, g, L: np.minimum(x, 0), lambda S, x, g: S.NegPart(x),
        kinks=_at_zero,
    ),
    Op(
        "sigmoid", "σ(x)", 1,
        lambda x, gamma, limits: x.sigmoid(), lambda x, g, L: _sigmoid(x), lambda S, x, g: S.Sigmoid(x),
    ),
    Op(
        "softplus", "log(1 + eˣ)", 1,
        lambda x, gamma, limits: F.softplus(x, threshold=40),
        lambda x, g, L: np.logaddexp(x, 0), lambda S, x, g: S.Softplus(x),
    ),
    Op("erf", "erf x", 1, lambda x, gamma, limits: x.erf(), lambda x, g, L: scipy.special.erf(x), lambda S, x, g: S.erf(x)),
    Op(
        "silu", "xσ(x)", 1,
        lambda x, gamma, limits: F.silu(x), lambda x, g, L: x * _sigmoid(x), lambda S, x, g: S.SiLU(x),
    ),
    Op(
        "gelu", "x(1 + erf(x/√2))/2", 1,
        lambda x, gamma, limits: _finite(F.gelu(x)),  # x(1 + erf) is formed before the half of it
        lambda x, g, L: x * scipy.special.ndtr(x), lambda S, x, g: S.GELU(x),
    ),
    Op(
        "elu", "max(x, 0) + min(eˣ − 1, 0)", 1,
        lambda x, gamma, limits: F.elu(x),
        lambda x, g, L: np.maximum(x, np.expm1(np.minimum(x, 0))), lambda S, x, g: S.ELU(x),
    ),
    Op(
        "leaky_relu", "max(x, 0.01x)", 1,
        lambda x, gamma, limits: F.leaky_relu(x),
        lambda x, g, L: np.maximum(x, 0.01 * x), lambda S, x, g: S.LeakyReLU(x), kinks=_at_zero,
    ),
    Op(
        "log_abs", "log(|x| + ε)", 1,
        lambda x, gamma, limits: (x.abs() + _LOG_OFFSET).log(),
        lambda x, g, L: np.log(np.abs(x) + _LOG_OFFSET), lambda S, x, g: S.log(S.Abs(x) + S.constant(_LOG_OFFSET)),
        wide=True, kinks=_at_zero, domain="all x; ε = 1e-3",
    ),
    Op(
        "sin", "sin x", 1,
        lambda x, gamma, limits: x.sin(), lambda x, g, L: np.sin(x), lambda S, x, g: S.sin(x), wide=True,
    ),
    Op(
        "cos", "cos x", 1,
        lambda x, gamma, limits: x.cos(), lambda x, g, L: np.cos(x), lambda S, x, g: S.cos(x), wide=True,
    ),
    Op(
        "cosh", "cosh x", 1,
        lambda x, gamma, limits: x.clamp(-_acosh(limits.bound), _acosh(limits.bound)).cosh().clamp(max=limits.bound),
        _saturated(np.cosh), lambda S, x, g: S.cosh(x),
        bounded=True, wide=True, kinks=lambda L: (-_acosh(L.bound), _acosh(L.bound)),
    ),
    Op(
        "sinc", "sin(x)/x", 1, _sinc,
        lambda x, g, L: np.sinc(x / np.pi), lambda S, x, g: S.Sinc(x), wide=True,
    ),
    Op(
        "gauss", "exp(−x²)", 1,
        lambda x, gamma, limits: (-x * x).exp(), lambda x, g, L: np.exp(-(x**2)), lambda S, x, g: S.exp(-(x**2)),
        wide=True,
    ),
)  # fmt: skip


def _acosh(bound: float) -> float:
    return math.acosh(max(bound, 1.0))


def _share(gamma: float) -> float:
    """σ(γ) of a number, to its last digit on either side; in terms that torch's compiler and exporter can read."""
    return math.exp(min(gamma, 0.0)) / (1 + math.exp(-abs(gamma)))


def _mix(x: Tensor, y: Tensor, gamma: Tensor | float, limits: Limits) -> Tensor:
    # Two shares rather than one and its complement: γ's gradient is then never x₁ − x₂ unscaled, which can overflow.
    if isinstance(gamma, Tensor):
        return _finite(gamma.sigmoid() * x + (-gamma).sigmoid() * y)
    return _finite(_share(gamma) * x + _share(-gamma) * y)


def _gauss_kernel(x: Tensor, y: Tensor, gamma: Any, limits: Limits) -> Tensor:
    distance = _finite(x - y).clamp(-1e4, 1e4)  # exp(−1e8) is 0 in every dtype, and the square of it overflows none
    return (-distance * distance).exp()


_BINARY = (
    Op(
        "add", "x₁ + x₂", 2,
        lambda x, y, gamma, limits: _finite(x + y), lambda x, y, g, L: x + y, lambda S, x, y, g: x + y,
    ),
    Op(
        "sub", "x₁ − x₂", 2,
        lambda x, y, gamma, limits: _finite(x - y), lambda x, y, g, L: x - y, lambda S, x, y, g: x - y,
    ),
    Op(
        "mul", "x₁x₂", 2,
        lambda x, y, gamma, limits: (x * y).clamp(-limits.bound, limits.bound),
        lambda x, y, g, L: np.clip(x * y, -L.bound, L.bound), lambda S, x, y, g: x * y, bounded=True,
    ),
    Op(
        "max", "max(x₁, x₂)", 2,
        lambda x, y, gamma, limits: torch.maximum(x, y), lambda x, y, g, L: np.maximum(x, y),
        lambda S, x, y, g: S.Max(x, y),
    ),
    Op(
        "min", "min(x₁, x₂)", 2,
        lambda x, y, gamma, limits: torch.minimum(x, y), lambda x, y, g, L: np.minimum(x, y),
        lambda S, x, y, g: S.Min(x, y),
    ),
    Op(
        "gate", "σ(x₁)x₂", 2,
        lambda x, y, gamma, limits: x.sigmoid() * y,
        lambda x, y, g, L: _sigmoid(x) * y, lambda S, x, y, g: S.Sigmoid(x) * y,
    ),
    Op(
        "mix", "σ(γ)x₁ + (1 − σ(γ))x₂", 2, _mix,
        lambda x, y, g, L: scipy.special.expit(g) * x + scipy.special.expit(-g) * y,
        lambda S, x, y, g: S.share(g) * x + (1 - S.share(g)) * y, gamma_init=(0.0, 0.0),
    ),
    Op("left", "x₁", 2, lambda x, y, gamma, limits: x, lambda x, y, g, L: x, lambda S, x, y, g: x),
    Op("right", "x₂", 2, lambda x, y, gamma, limits: y, lambda x, y, g, L: y, lambda S, x, y, g: y),
    Op(
        "div", "x₁/x₂", 2, _div, _div_reference, lambda S, x, y, g: x / y,
        bounded=True, wide=True, domain="|x₂| raised to at least 0.01; |x₁/x₂| ends at 100 when lifted",
    ),
    Op(
        "laplace_kernel", "exp(−|x₁ − x₂|)", 2,
        lambda x, y, gamma, limits: (-_finite(x - y).abs()).exp(),
        lambda x, y, g, L: np.exp(-np.abs(x - y)), lambda S, x, y, g: S.exp(-S.Abs(x - y)), wide=True,
    ),
    Op(
        "gauss_kernel", "exp(−(x₁ − x₂)²)", 2, _gauss_kernel,
        lambda x, y, g, L: np.exp(-((x - y) ** 2)), lambda S, x, y, g: S.exp(-((x - y) ** 2)), wide=True,
    ),
)  # fmt: skip

OPS: dict[int, dict[str, Op]] = {1: {op.name: op for op in _UNARY}, 2: {op.name: op for op in _BINARY}}

# Slot name -> arity, in slot order.
SLOTS: dict[str, int] = {"u1": 1, "u2": 1, "b1": 2, "u3": 1, "u4": 1, "b2": 2}


def candidates(wide: bool = False) -> dict[str, tuple[str, ...]]:
    """Names of each slot's candidate operations, in table order: the paper's 23 and 9, or the wider 29 and 12."""
    return {slot: tuple(op.name for op in OPS[arity].values() if wide or not op.wide) for slot, arity in SLOTS.items()}


def get(name: str, arity: int) -> Op:
    """Look up a row. KeyError with the nearest names where there is none."""
    try:
        return OPS[arity][name]
    except (KeyError, TypeError):
        kind = "unary" if arity == 1 else "binary"
        raise KeyError(f"no {kind} operation {name!r}{nearest(name, OPS[arity])}") from None
