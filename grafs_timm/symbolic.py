"""The simplified formula of a genotype, as text and as LaTeX: sympy does the algebra, named functions stay named."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import sympy
from sympy.printing.latex import LatexPrinter
from sympy.printing.str import StrPrinter

from . import ops

if TYPE_CHECKING:
    from .formula import Gene, Genotype

x = sympy.Symbol("x", real=True)
_DIGITS = 4  # of a constant, in what is shown; the genotype keeps all of them


class _Named(sympy.Function):
    """A function that keeps its name in a formula; ``definition`` is what it stands for."""

    nargs = 1
    is_real = True
    shown, tex = "", ""

    @classmethod
    def definition(cls, z: Any) -> Any:
        raise TypeError(f"{cls.__name__} has no definition")  # every subclass has


def _named(name: str, tex: str, definition: Any, shown: str | None = None) -> type[_Named]:
    return type(name, (_Named,), {"shown": shown or name, "tex": tex, "definition": staticmethod(definition)})


def _operator(name: str) -> str:
    return rf"\operatorname{{{name}}}\left(%s\right)"


def _sigmoid(z: Any) -> Any:
    return 1 / (1 + sympy.exp(-z))


ReLU = _named("ReLU", _operator("ReLU"), lambda z: sympy.Max(z, 0))
NegPart = _named("NegPart", r"\min\left(%s, 0\right)", lambda z: sympy.Min(z, 0), shown="min(%s, 0)")
Sigmoid = _named("Sigmoid", r"\sigma\left(%s\right)", _sigmoid, shown="σ")
Softplus = _named("Softplus", _operator("softplus"), lambda z: sympy.log(1 + sympy.exp(z)), shown="softplus")
SiLU = _named("SiLU", _operator("SiLU"), lambda z: z * _sigmoid(z))
GELU = _named("GELU", _operator("GELU"), lambda z: z * (1 + sympy.erf(z / sympy.sqrt(2))) / 2)
ELU = _named("ELU", _operator("ELU"), lambda z: sympy.Max(z, 0) + sympy.Min(sympy.exp(z) - 1, 0))
LeakyReLU = _named("LeakyReLU", _operator("LeakyReLU"), lambda z: sympy.Max(z, z / 100))
Root = _named("Root", r"\sqrt{\max\left(%s, 0\right)}", lambda z: sympy.sqrt(sympy.Max(z, 0)), shown="√max(%s, 0)")
Sinc = _named("Sinc", _operator("sinc"), lambda z: sympy.sin(z) / z, shown="sinc")
NAMED = (ReLU, NegPart, Sigmoid, Softplus, SiLU, GELU, ELU, LeakyReLU, Root, Sinc)


class Namespace:
    """What the ``sympy`` column of the op table builds with."""

    Abs, exp, log, sin, cos = sympy.Abs, sympy.exp, sympy.log, sympy.sin, sympy.cos
    sinh, cosh, tanh, asinh, atan, erf = sympy.sinh, sympy.cosh, sympy.tanh, sympy.asinh, sympy.atan, sympy.erf
    Max, Min = sympy.Max, sympy.Min
    ReLU, NegPart, Sigmoid, Softplus, SiLU, GELU = ReLU, NegPart, Sigmoid, Softplus, SiLU, GELU
    ELU, LeakyReLU, Root, Sinc = ELU, LeakyReLU, Root, Sinc

    def __init__(self, exact: bool = False) -> None:
        self._digits = 17 if exact else _DIGITS

    def constant(self, value: float) -> Any:
        """A decimal as a sympy Float, rounded for display."""
        return sympy.Float(f"{value:.{self._digits}g}", self._digits)

    def share(self, gamma: Any) -> Any:
        """σ(γ) of the mix."""
        return self.constant(1 / (1 + math.exp(-float(gamma))))


def _ordered(f: Any, *arguments: Any) -> Any:
    """Max and Min of two expressions that sympy can't compare may cost seconds: leave them unevaluated."""
    first, second = arguments
    if first == second:
        return first
    if first.is_number and second.is_number:
        return f(first, second)
    return f(first, second, evaluate=False)


Namespace.Max = staticmethod(lambda a, b: _ordered(sympy.Max, a, b))  # type: ignore[assignment]
Namespace.Min = staticmethod(lambda a, b: _ordered(sympy.Min, a, b))  # type: ignore[assignment]


def expression(genotype: Genotype, exact: bool = False) -> Any:
    """The genotype as a sympy expression in ``x``, without the saturation of growing operations; constants to 4 digits.

    ``exact`` keeps all digits of the constants.
    """
    space = Namespace(exact)

    def slot(name: str, *inputs: Any) -> Any:
        gene: Gene = getattr(genotype, name)
        row = ops.OPS[ops.SLOTS[name]][gene.op]
        gamma = None if gene.gamma is None else gene.gamma if gene.op == "mix" else space.constant(gene.gamma)
        return row.sympy(space, *inputs, gamma)

    inner = slot("b1", slot("u1", x), slot("u2", x))
    return slot("b2", slot("u3", inner), slot("u4", x))


class _Text(StrPrinter):
    def _print_Function(self, f: Any) -> str:
        name = getattr(f.func, "shown", "") or f.func.__name__
        inside = ", ".join(map(self._print, f.args))
        return name % inside if "%s" in name else f"{name}({inside})"

    def _print_Max(self, f: Any) -> str:
        return f"max({', '.join(sorted(map(self._print, f.args)))})"

    def _print_Min(self, f: Any) -> str:
        return f"min({', '.join(sorted(map(self._print, f.args)))})"

    def _print_Abs(self, f: Any) -> str:
        return f"|{self._print(f.args[0])}|"

    def _print_Pow(self, f: Any, rational: bool = False) -> str:
        text: str = super()._print_Pow(f, rational=rational)
        return text.replace("**2", "²").replace("**3", "³") if f.exp in (2, 3) else text

    def _print_Mul(self, f: Any) -> str:
        text: str = super()._print_Mul(f)
        return text.replace("*", "·").replace("··", "**")

    def _print_Float(self, f: Any) -> str:
        return f"{float(f):.{_DIGITS}g}"


class _Latex(LatexPrinter):
    def _print_Function(self, f: Any, exp: Any = None) -> str:
        if not getattr(f.func, "tex", ""):
            return str(super()._print_Function(f, exp))
        shown: str = f.func.tex % self._print(f.args[0])
        return shown if exp is None else rf"\left({shown}\right)^{{{exp}}}"

    def _print_Float(self, f: Any) -> str:
        return f"{float(f):.{_DIGITS}g}"


@functools.lru_cache(maxsize=4096)
def text(genotype: Genotype) -> str:
    """The simplified formula as text."""
    return str(_Text().doprint(expression(genotype)))


@functools.lru_cache(maxsize=4096)
def latex(genotype: Genotype) -> str:
    """The simplified formula as LaTeX."""
    return str(_Latex().doprint(expression(genotype)))
