"""What the tests know of the table of operations beside it: kinks, bounds, and definitions in elementary functions."""

from __future__ import annotations

import math
from typing import Any

import sympy
import torch
from torch import Tensor

from grafs_timm.activations import formula
from grafs_timm.activations.ops import SEARCH, Limits, Op

BOUNDED = {("square", 1), ("cube", 1), ("exp", 1), ("sinh", 1), ("cosh", 1), ("mul", 2), ("div", 2)}  # saturate at ±ℓ

# Where the derivative of a unary jumps.
_KINKS: dict[str, Any] = {
    **dict.fromkeys(("abs", "relu", "neg_part", "leaky_relu", "log_abs"), lambda limits: (0.0,)),
    "square": lambda limits: (-math.sqrt(limits.bound), math.sqrt(limits.bound)),
    "cube": lambda limits: (-math.cbrt(limits.bound), math.cbrt(limits.bound)),
    "sqrt": lambda limits: (limits.floor,),
    "exp": lambda limits: (math.log(limits.bound),),
    "sinh": lambda limits: (-math.asinh(limits.bound), math.asinh(limits.bound)),
    "cosh": lambda limits: (-math.acosh(limits.bound), math.acosh(limits.bound)),
}


def kinks(op: Op, limits: Limits) -> tuple[float, ...]:
    return _KINKS[op.name](limits) if op.arity == 1 and op.name in _KINKS else ()


def apply(op: Op, *inputs: Tensor, gamma: Tensor | float | None = None, limits: Limits = SEARCH) -> Tensor:
    """One operation with the care for 16-bit inputs that a cell takes: float32 inside, saturated at the dtype's end."""
    dtype = inputs[0].dtype
    if dtype in (torch.float32, torch.float64):
        return op.compute(*inputs, gamma=gamma, limits=limits)
    top = torch.finfo(dtype).max
    result = op.compute(*(x.float() for x in inputs), gamma=gamma, limits=Limits(min(limits.bound, top), limits.floor))
    return result.clamp(-top, top).to(dtype)


def _max(*args: Any) -> Any:
    return sympy.Max(*args, evaluate=False)  # comparing the arguments takes sympy seconds for some cells


def _min(*args: Any) -> Any:
    return sympy.Min(*args, evaluate=False)


_DEFINITIONS: dict[type[formula.Named], Any] = {
    formula.ReLU: lambda x: _max(x, 0),
    formula.NegPart: lambda x: _min(x, 0),
    formula.Sigmoid: lambda x: 1 / (1 + sympy.exp(-x)),
    formula.Softplus: lambda x: sympy.log(1 + sympy.exp(x)),
    formula.SiLU: lambda x: x / (1 + sympy.exp(-x)),
    formula.GELU: lambda x: x * (1 + sympy.erf(x / sympy.sqrt(2))) / 2,
    formula.ELU: lambda x: _max(x, 0) + _min(sympy.exp(x) - 1, 0),
    formula.LeakyReLU: lambda x: _max(x, x / 100),
    formula.Root: lambda x, floor: sympy.sqrt(_max(x, floor)),
    formula.Sinc: sympy.sinc,
    formula.Larger: _max,
    formula.Smaller: _min,
}


def expanded(expr: Any) -> Any:
    """The expression with every named function replaced by its definition in elementary functions."""
    named = sympy.sympify(expr)
    return named.replace(lambda part: isinstance(part, formula.Named), lambda part: _DEFINITIONS[type(part)](*part.args))
