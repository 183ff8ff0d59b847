"""The transcendental functions of a formula in terms that torch's inductor turns into fast CPU code, for float32.

On CPU inductor calls a library function for each exp, tanh, atan, …, correct to one unit in the last place and up to 5
times the cost of what stands here, and it forms eˣ anew in every sigmoid. ``DECOMPOSITIONS`` is handed to torch's tracer:
it says the same functions in additions, products and quotients, with one eˣ that the sigmoid, SiLU, softplus, tanh, sinh,
… of one x share. On a GPU the library's functions are fast and none of this is used.

Exact to a few units in the last place, relative to the value, also near 0 and in the tails; where a function falls below
float32's smallest normal number it is 0. NaN stays NaN. eˣ ends at e^88: the rows of ``ops.py`` never ask for more than
1e7. The polynomials are minimax fits (Lawson's iteration) to the range named beside each; tests/test_fastmath.py compares
every function with float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_LOG2E = math.log2(math.e)
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4  # n·high is exact for every exponent n
_ROUND = 1.5 * 2**23  # z = t + this: z's last bits are t rounded to an integer
_MANTISSA = 23  # bits
_ONE = 127  # the exponent bits of 1.0
_ROOT_HALF = 0x3F3504F3  # the bits of √½


def _poly(z: Tensor, *coefficients: float) -> Any:
    """Σ coefficients[i]·zⁱ by halves (Estrin): a processor that waits for each product waits the logarithm of the degree."""
    terms: list[Any] = list(coefficients)
    while len(terms) > 1:
        pairs = [terms[i] + terms[i + 1] * z for i in range(0, len(terms) - 1, 2)]
        terms, z = pairs + terms[2 * len(pairs) :], z * z
    return terms[0]


def exp(x: Tensor) -> Tensor:
    """2ⁿ·e^r with |r| ≤ ½ log 2; 0 below x = −87.3 and e^88 above 88."""
    z = x * _LOG2E + _ROUND
    n = z - _ROUND
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    power = ((z.view(torch.int32) + _ONE) << _MANTISSA).view(torch.float32)
    value = power * _poly(r, 1.0, 1.0, 0.499999981, 0.166665055, 0.0416671383, 0.00836914549, 0.00138888688)
    # the ends are set last, beside the wait for the polynomial
    return torch.where(x < -87.3, 0.0, torch.where(x > 88.0, math.exp(88), value))


def _log(u: Tensor) -> Tensor:
    """log u for a normal u > 0: m·2ᵏ with √½ ≤ m ≤ √2, and log m from s = (m − 1)/(m + 1)."""
    bits = u.view(torch.int32)
    k = (bits - _ROOT_HALF) >> _MANTISSA
    f = (bits - (k << _MANTISSA)).view(torch.float32) - 1
    s = f / (2 + f)
    z = s * s
    low = s * (z * _poly(z, 0.666666666, 0.400001195, 0.285509742, 0.233275621) - f)
    n = k.to(torch.float32)
    return n * _LN2_HIGH + (f + (n * _LN2_LOW + low))


def _odd(x: Tensor, y: Tensor) -> Tensor:
    """y with x's sign, for y ≥ 0."""
    return torch.where(x < 0, -y, y)


def sigmoid(x: Tensor) -> Tensor:
    e = exp(x)
    return e / (1 + e)


def sigmoid_backward(grad: Tensor, s: Tensor) -> Tensor:
    return grad * (s * (1 - s))


def silu(x: Tensor) -> Tensor:
    return x * sigmoid(x)


def silu_backward(grad: Tensor, x: Tensor) -> Tensor:
    s = sigmoid(x)
    return grad * (s * (1 + x * (1 - s)))


def softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Any:
    if beta != 1 or threshold > 80:
        return NotImplemented
    e = exp(x)
    u = 1 + e
    return torch.where(x > threshold, x, _log(u) + (e - (u - 1)) / u)  # the last term: what rounding 1 + e took away


def softplus_backward(grad: Tensor, x: Tensor, beta: float, threshold: float) -> Any:
    return grad * sigmoid(x) if beta == 1 else NotImplemented


def tanh(x: Tensor) -> Tensor:
    e = exp(x)
    # |x| < ½
    near = x * _poly(x * x, 0.999999987, -0.333330694, 0.133247793, -0.052986075, 0.0171350061)
    return torch.where(x.abs() < 0.5, near, 1 - 2 / (1 + e * e))


def sinh(x: Tensor) -> Tensor:
    e = exp(x)
    # |x| < 1
    near = x * _poly(x * x, 0.99999998, 0.166667338, 0.00832991192, 0.000203939897)
    return torch.where(x.abs() < 1, near, 0.5 * e - 0.5 / e)


def cosh(x: Tensor) -> Tensor:
    e = exp(x)
    return 0.5 * e + 0.5 / e


def asinh(x: Tensor) -> Tensor:
    a, square = x.abs(), x * x
    # |x| < ½
    near = x * _poly(square, 0.999999974, -0.166661415, 0.0748257708, -0.042580774, 0.0199085965)
    return torch.where(a < 0.5, near, _odd(x, _log(a + (1 + square).sqrt())))


def atan(x: Tensor) -> Tensor:
    a = x.abs()
    z = a.clamp(max=1) / a.clamp(min=1)
    # 0 ≤ z ≤ 1, polynomial in z²
    near = z * _poly(
        z * z, 0.999999985, -0.333330733, 0.199926194, -0.142036443, 0.106409332, -0.0750429273, 0.0426914979,
        -0.0160686158, 0.00284988631,
    )  # fmt: skip
    return _odd(x, torch.where(a > 1, math.pi / 2 - near, near))


def elu(x: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Any:
    if (alpha, scale, input_scale) != (1, 1, 1):
        return NotImplemented
    # −½ < x ≤ 0: (eˣ − 1)/x
    near = x * _poly(x, 0.999999999, 0.499999807, 0.166662241, 0.0416290891, 0.00818738583, 0.00112163478)
    return torch.where(x > 0, x, torch.where(x > -0.5, near, exp(x) - 1))


def _normal_tail(x: Tensor) -> tuple[Tensor, Tensor]:
    """Φ(−|x|) and e^(−x²/2): their ratio is a polynomial in t = 1/(1 + p|x|), fitted for |x| ≤ 9."""
    bell = exp(x * x * -0.5)
    t = 1 / (1 + 0.34 * x.abs())
    ratio = _poly(
        t, -8.20612446e-05, 0.13721242, 0.122832118, 0.177713655, -0.0677114265, 0.301383655, -0.220717096, 0.0493687967
    )  # fmt: skip
    return bell * ratio, bell


def gelu(x: Tensor, approximate: str = "none") -> Any:
    if approximate != "none":
        return NotImplemented
    tail, _ = _normal_tail(x)
    return x * torch.where(x < 0, tail, 1 - tail)


def gelu_backward(grad: Tensor, x: Tensor, approximate: str = "none") -> Any:
    if approximate != "none":
        return NotImplemented
    tail, bell = _normal_tail(x)
    return grad * (torch.where(x < 0, tail, 1 - tail) + x * bell * (1 / math.sqrt(2 * math.pi)))


def erf(x: Tensor) -> Tensor:
    # |x| < 1
    near = x * _poly(x * x, 1.12837912, -0.376123262, 0.112801801, -0.0267113113, 0.00491755137, -0.0005631422)
    tail, _ = _normal_tail(x * math.sqrt(2))
    return torch.where(x.abs() < 1, near, _odd(x, 1 - 2 * tail))


_aten = torch.ops.aten

DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    _aten.exp.default: exp,
    _aten.sigmoid.default: sigmoid,
    _aten.sigmoid_backward.default: sigmoid_backward,
    _aten.silu.default: silu,
    _aten.silu_backward.default: silu_backward,
    _aten.softplus.default: softplus,
    _aten.softplus_backward.default: softplus_backward,
    _aten.tanh.default: tanh,
    _aten.sinh.default: sinh,
    _aten.cosh.default: cosh,
    _aten.asinh.default: asinh,
    _aten.atan.default: atan,
    _aten.elu.default: elu,
    _aten.gelu.default: gelu,
    _aten.gelu_backward.default: gelu_backward,
    _aten.erf.default: erf,
}
