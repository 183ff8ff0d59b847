"""Define the operations that a cell chooses from, one row each; every other module reads this table.

Source: Strack, Safari, Hutter 2024 (arXiv 2408.06820), the unary and binary candidates of the search space. Two things
differ from the paper's released code: growth is bounded at the *output* of an operation (as the paper states), and every
operation has a finite value and a finite gradient for every finite input in float32, bfloat16 and float16.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # loads its parts when they are used
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..utils.suggest import nearest

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """Set where operations saturate.

    Args:
        bound: ℓ of the paper: outputs of growing operations end at ±ℓ, with gradient zero beyond.
        floor: ε: the smallest number that the square root is taken of.
    """

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
    """Define one candidate operation.

    Args:
        name: As genotypes spell it.
        arity: 1 for unary operations, 2 for binary ones.
        compute: ``compute(*inputs, gamma, limits)`` maps float32 or float64 tensors of one shape to that shape; ``gamma`` is
            a float or a scalar tensor and is ignored by rows without ``gamma_init``.
        reference: The same function in NumPy float64, written independently for the tests and for folding constants.
        sympy: ``sympy(S, *inputs, gamma)`` builds the symbolic form from the namespace S of ``formula.namespace``; so this
            module imports no sympy.
        gamma_init: Mean and standard deviation of the constant γ at the start of a search, for rows that have one.
        wide: Belongs to the optional wider set.
    """

    name: str
    arity: int
    compute: Callable[..., Tensor]
    reference: Callable[..., Array]
    sympy: Callable[..., Any]
    gamma_init: tuple[float, float] | None = None
    wide: bool = False

    @property
    def has_gamma(self) -> bool:
        """Return whether the operation has a learnt constant."""
        return self.gamma_init is not None


def _finite(y: Tensor) -> Tensor:
    """Saturate at the dtype's largest finite number, so that sums do not overflow."""
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
    """Make the NumPy reference of a bounded row: the function clipped to ±ℓ."""

    def reference(x: Array, g: float, limits: Limits) -> Array:
        with np.errstate(over="ignore"):
            return np.clip(f(x), -limits.bound, limits.bound)

    return reference


_GAMMA = (1.0, 0.25)

_UNARY = (
    Op("identity", 1, lambda x, gamma, limits: x, lambda x, g, L: x, lambda S, x, g: x),
    Op("neg", 1, lambda x, gamma, limits: -x, lambda x, g, L: -x, lambda S, x, g: -x),
    Op("abs", 1, lambda x, gamma, limits: x.abs(), lambda x, g, L: np.abs(x), lambda S, x, g: S.Abs(x)),
    Op(
        "square", 1,
        lambda x, gamma, limits: (x * x).clamp(max=limits.bound),
        _saturated(lambda x: x**2), lambda S, x, g: x**2,
    ),
    Op(
        "cube", 1,
        lambda x, gamma, limits: x.clamp(-math.cbrt(limits.bound), math.cbrt(limits.bound)).pow(3),
        _saturated(lambda x: x**3), lambda S, x, g: x**3,
    ),
    Op(
        "sqrt", 1,
        lambda x, gamma, limits: x.clamp(min=limits.floor).sqrt(),
        lambda x, g, L: np.sqrt(np.maximum(x, L.floor)), lambda S, x, g: S.Root(x),
    ),
    Op(
        "shift", 1,
        lambda x, gamma, limits: _finite(x + gamma), lambda x, g, L: x + g, lambda S, x, g: x + g, gamma_init=_GAMMA,
    ),
    Op(
        "scale", 1,
        lambda x, gamma, limits: _finite(x * gamma), lambda x, g, L: x * g, lambda S, x, g: g * x, gamma_init=_GAMMA,
    ),
    Op(
        "const", 1,
        lambda x, gamma, limits: _full(x, gamma), lambda x, g, L: np.full_like(x, g), lambda S, x, g: g,
        gamma_init=_GAMMA,
    ),
    Op(
        "exp", 1,
        lambda x, gamma, limits: x.clamp(max=math.log(limits.bound)).exp(),
        _saturated(np.exp), lambda S, x, g: S.exp(x),
    ),
    Op(
        "sinh", 1,
        lambda x, gamma, limits: x.clamp(-math.asinh(limits.bound), math.asinh(limits.bound)).sinh(),
        _saturated(np.sinh), lambda S, x, g: S.sinh(x),
    ),
    Op("tanh", 1, lambda x, gamma, limits: x.tanh(), lambda x, g, L: np.tanh(x), lambda S, x, g: S.tanh(x)),
    Op("asinh", 1, _asinh, lambda x, g, L: np.arcsinh(x), lambda S, x, g: S.asinh(x)),
    Op("atan", 1, lambda x, gamma, limits: x.atan(), lambda x, g, L: np.arctan(x), lambda S, x, g: S.atan(x)),
    Op("relu", 1, lambda x, gamma, limits: F.relu(x), lambda x, g, L: np.maximum(x, 0), lambda S, x, g: S.ReLU(x)),
    Op(
        "neg_part", 1,
        lambda x, gamma, limits: -F.relu(-x), lambda x, g, L: np.minimum(x, 0), lambda S, x, g: S.NegPart(x),
    ),
    Op("sigmoid", 1, lambda x, gamma, limits: x.sigmoid(), lambda x, g, L: _sigmoid(x), lambda S, x, g: S.Sigmoid(x)),
    Op(
        "softplus", 1,
        lambda x, gamma, limits: F.softplus(x, threshold=40),
        lambda x, g, L: np.logaddexp(x, 0), lambda S, x, g: S.Softplus(x),
    ),
    Op("erf", 1, lambda x, gamma, limits: x.erf(), lambda x, g, L: scipy.special.erf(x), lambda S, x, g: S.erf(x)),
    Op("silu", 1, lambda x, gamma, limits: F.silu(x), lambda x, g, L: x * _sigmoid(x), lambda S, x, g: S.SiLU(x)),
    Op(
        "gelu", 1,
        lambda x, gamma, limits: _finite(F.gelu(x)),  # x(1 + erf) is formed before the half of it
        lambda x, g, L: x * scipy.special.ndtr(x), lambda S, x, g: S.GELU(x),
    ),
    Op(
        "elu", 1,
        lambda x, gamma, limits: F.elu(x),
        lambda x, g, L: np.maximum(x, np.expm1(np.minimum(x, 0))), lambda S, x, g: S.ELU(x),
    ),
    Op(
        "leaky_relu", 1,
        lambda x, gamma, limits: F.leaky_relu(x),
        lambda x, g, L: np.maximum(x, 0.01 * x), lambda S, x, g: S.LeakyReLU(x),
    ),
    Op(
        "log_abs", 1,
        lambda x, gamma, limits: (x.abs() + _LOG_OFFSET).log(),
        lambda x, g, L: np.log(np.abs(x) + _LOG_OFFSET), lambda S, x, g: S.log(S.Abs(x) + S.constant(_LOG_OFFSET)),
        wide=True,
    ),
    Op("sin", 1, lambda x, gamma, limits: x.sin(), lambda x, g, L: np.sin(x), lambda S, x, g: S.sin(x), wide=True),
    Op("cos", 1, lambda x, gamma, limits: x.cos(), lambda x, g, L: np.cos(x), lambda S, x, g: S.cos(x), wide=True),
    Op(
        "cosh", 1,
        lambda x, gamma, limits: x.clamp(-_acosh(limits.bound), _acosh(limits.bound)).cosh().clamp(max=limits.bound),
        _saturated(np.cosh), lambda S, x, g: S.cosh(x),
        wide=True,
    ),
    Op("sinc", 1, _sinc, lambda x, g, L: np.sinc(x / np.pi), lambda S, x, g: S.Sinc(x), wide=True),
    Op(
        "gauss", 1,
        lambda x, gamma, limits: (-x * x).exp(), lambda x, g, L: np.exp(-(x**2)), lambda S, x, g: S.exp(-(x**2)),
        wide=True,
    ),
)  # fmt: skip


def _acosh(bound: float) -> float:
    return math.acosh(max(bound, 1.0))


def _share(gamma: float) -> float:
    """Compute σ(γ) exactly for large |γ| of either sign, in terms that torch's compiler and exporter can read."""
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
    Op("add", 2, lambda x, y, gamma, limits: _finite(x + y), lambda x, y, g, L: x + y, lambda S, x, y, g: x + y),
    Op("sub", 2, lambda x, y, gamma, limits: _finite(x - y), lambda x, y, g, L: x - y, lambda S, x, y, g: x - y),
    Op(
        "mul", 2,
        lambda x, y, gamma, limits: (x * y).clamp(-limits.bound, limits.bound),
        lambda x, y, g, L: np.clip(x * y, -L.bound, L.bound), lambda S, x, y, g: x * y,
    ),
    Op(
        "max", 2,
        lambda x, y, gamma, limits: torch.maximum(x, y), lambda x, y, g, L: np.maximum(x, y),
        lambda S, x, y, g: S.Max(x, y),
    ),
    Op(
        "min", 2,
        lambda x, y, gamma, limits: torch.minimum(x, y), lambda x, y, g, L: np.minimum(x, y),
        lambda S, x, y, g: S.Min(x, y),
    ),
    Op(
        "gate", 2,
        lambda x, y, gamma, limits: x.sigmoid() * y,
        lambda x, y, g, L: _sigmoid(x) * y, lambda S, x, y, g: S.Sigmoid(x) * y,
    ),
    Op(
        "mix", 2, _mix,
        lambda x, y, g, L: scipy.special.expit(g) * x + scipy.special.expit(-g) * y,
        lambda S, x, y, g: S.share(g) * x + (1 - S.share(g)) * y, gamma_init=(0.0, 0.0),
    ),
    Op("left", 2, lambda x, y, gamma, limits: x, lambda x, y, g, L: x, lambda S, x, y, g: x),
    Op("right", 2, lambda x, y, gamma, limits: y, lambda x, y, g, L: y, lambda S, x, y, g: y),
    Op("div", 2, _div, _div_reference, lambda S, x, y, g: x / y, wide=True),
    Op(
        "laplace_kernel", 2,
        lambda x, y, gamma, limits: (-_finite(x - y).abs()).exp(),
        lambda x, y, g, L: np.exp(-np.abs(x - y)), lambda S, x, y, g: S.exp(-S.Abs(x - y)), wide=True,
    ),
    Op(
        "gauss_kernel", 2, _gauss_kernel,
        lambda x, y, g, L: np.exp(-((x - y) ** 2)), lambda S, x, y, g: S.exp(-((x - y) ** 2)), wide=True,
    ),
)  # fmt: skip

OPS: dict[int, dict[str, Op]] = {1: {op.name: op for op in _UNARY}, 2: {op.name: op for op in _BINARY}}

# Slot name -> arity, in slot order.
SLOTS: dict[str, int] = {"u1": 1, "u2": 1, "b1": 2, "u3": 1, "u4": 1, "b2": 2}


def candidates(wide: bool = False) -> dict[str, tuple[str, ...]]:
    """Return slot -> names of its candidates, in table order: the paper's 23 unary and 9 binary ones, or 29 and 12 if wide."""
    return {slot: tuple(op.name for op in OPS[arity].values() if wide or not op.wide) for slot, arity in SLOTS.items()}


def get(name: str, arity: int) -> Op:
    """Return the row of that name. Raises KeyError with the nearest names where there is none."""
    try:
        return OPS[arity][name]
    except (KeyError, TypeError):
        kind = "unary" if arity == 1 else "binary"
        raise KeyError(f"no {kind} operation {name!r}{nearest(name, OPS[arity])}") from None
