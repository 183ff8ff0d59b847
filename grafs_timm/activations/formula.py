"""Write a cell's formula as a reader would: simplified by sympy, with the common names, as text and LaTeX.

Imported only when a formula is needed: sympy takes a third of a second to load. The growth bound does not appear in a
formula, the floor of a root does, as a number. Constants are folded by the table's references, which apply the bound.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import sympy
from scipy import special
from sympy.printing.latex import LatexPrinter
from sympy.printing.str import StrPrinter

from . import ops

X = sympy.Symbol("x", real=True)
DIGITS = 4  # significant digits of a constant in a formula


class Named(sympy.Function):
    """A function that keeps its common name in a formula instead of being written out.

    ``sign`` 1 or −1 states that its values are never below or never above 0. ``eval`` is sympy's hook that simplifies a call
    as it is made, or returns None to keep it; its arguments are expressions, never text.
    """

    is_real = is_finite = True
    sign = 0
    tex = ""

    def _eval_is_nonnegative(self) -> bool | None:
        return True if self.sign > 0 else None

    def _eval_is_nonpositive(self) -> bool | None:
        return True if self.sign < 0 else None

    def _latex(self, printer: LatexPrinter, exp: str | None = None) -> str:
        written = self.tex_of(*(printer._print(a) for a in self.args))
        return written if exp is None else rf"\left({written}\right)^{{{exp}}}"

    def tex_of(self, *args: str) -> str:
        """Return the call in LaTeX, given its arguments in LaTeX."""
        return rf"{self.tex}\left({', '.join(args)}\right)"

    def _sympystr(self, printer: StrPrinter) -> str:
        return f"{type(self).__name__}({', '.join(printer._print(a) for a in self.args)})"


class ReLU(Named):
    """max(x, 0)"""

    sign, tex = 1, r"\operatorname{ReLU}"

    @classmethod
    def eval(cls, x: Any) -> Any:
        return x if x.is_nonnegative else sympy.S.Zero if x.is_nonpositive else None


class NegPart(Named):
    """min(x, 0)"""

    sign = -1

    @classmethod
    def eval(cls, x: Any) -> Any:
        return x if x.is_nonpositive else sympy.S.Zero if x.is_nonnegative else None

    def tex_of(self, *args: str) -> str:
        return rf"\min\left({args[0]}, 0\right)"

    def _sympystr(self, printer: StrPrinter) -> str:
        return f"min({printer._print(self.args[0])}, 0)"


class Sigmoid(Named):
    """σ(x)"""

    sign, tex = 1, r"\sigma"

    @classmethod
    def eval(cls, x: Any) -> Any:
        return number(float(special.expit(float(x)))) if x.is_Number else None

    def _sympystr(self, printer: StrPrinter) -> str:
        return f"sigmoid({printer._print(self.args[0])})"


class Softplus(Named):
    """log(1 + eˣ)"""

    sign, tex = 1, r"\operatorname{softplus}"

    def _sympystr(self, printer: StrPrinter) -> str:
        return f"softplus({printer._print(self.args[0])})"


class SiLU(Named):
    """x·σ(x)"""

    tex = r"\operatorname{SiLU}"


class GELU(Named):
    """x·(1 + erf(x/√2))/2"""

    tex = r"\operatorname{GELU}"


class ELU(Named):
    """max(x, 0) + min(eˣ − 1, 0)"""

    tex = r"\operatorname{ELU}"

    @classmethod
    def eval(cls, x: Any) -> Any:
        return x if x.is_nonnegative else None


class LeakyReLU(Named):
    """max(x, 0.01x)"""

    tex = r"\operatorname{LeakyReLU}"

    @classmethod
    def eval(cls, x: Any) -> Any:
        return x if x.is_nonnegative else None


class Root(Named):
    """√max(x, ε), with ε as the second argument."""

    sign = 1

    def tex_of(self, *args: str) -> str:
        return rf"\sqrt{{\max\left({args[0]}, {args[1]}\right)}}"

    def _sympystr(self, printer: StrPrinter) -> str:
        return f"sqrt(max({', '.join(printer._print(a) for a in self.args)}))"


class Sinc(Named):
    """sin(x)/x"""

    tex = r"\operatorname{sinc}"

    def _sympystr(self, printer: StrPrinter) -> str:
        return f"sinc({printer._print(self.args[0])})"


class Larger(Named):
    """max(x₁, x₂), simplified only where the arguments are equal or one is 0."""

    tex, plain = r"\max", "max"

    @classmethod
    def eval(cls, x: Any, y: Any) -> Any:
        if x == y:
            return x
        # sort the arguments, a constant last
        ordered = tuple(sorted((x, y), key=lambda arg: (arg.is_Number, sympy.default_sort_key(arg))))
        if ordered[1] == 0:
            return ReLU(ordered[0]) if cls is Larger else NegPart(ordered[0])
        return None if ordered == (x, y) else cls(*ordered)

    def _sympystr(self, printer: StrPrinter) -> str:
        return f"{self.plain}({', '.join(printer._print(a) for a in self.args)})"


class Smaller(Larger):
    """min(x₁, x₂)"""

    tex, plain = r"\min", "min"


def number(value: float) -> Any:
    """Return a sympy Integer where the value is one, else a Float of full precision."""
    return sympy.Integer(int(value)) if float(value).is_integer() else sympy.Float(value)


def _absolute(x: Any) -> Any:
    """Return |x| without the nested ||x|| that sympy would keep."""
    return x if x.is_nonnegative else -x if x.is_nonpositive else sympy.Abs(x)


def namespace(limits: ops.Limits) -> SimpleNamespace:
    """Return the functions that the table's ``sympy`` rows use, their argument ``S``."""
    floor = sympy.Float(limits.floor)
    borrowed = ("exp", "sinh", "cosh", "tanh", "asinh", "atan", "erf", "log", "sin", "cos", "sqrt", "pi")
    own = (ReLU, NegPart, Sigmoid, Softplus, SiLU, GELU, ELU, LeakyReLU, Sinc)
    return SimpleNamespace(
        **{name: getattr(sympy, name) for name in borrowed},
        **{kind.__name__: kind for kind in own},
        Abs=_absolute,
        Max=Larger,
        Min=Smaller,
        Root=lambda x: Root(x, floor),
        constant=number,
        share=lambda gamma: number(float(special.expit(gamma))),
    )


def expression(genes: dict[str, Any], limits: ops.Limits) -> Any:
    """Build a cell as a sympy expression in ``X``, with constants at full precision.

    Args:
        genes: Slot -> `Gene`.
        limits: Where operations saturate; used for folding constants.
    """
    space = namespace(limits)

    def apply(slot: str, *given: Any) -> Any:
        gene, op = genes[slot], ops.OPS[len(given)][genes[slot].op]
        if all(value.is_Number for value in given):
            inputs = [np.array(float(value)) for value in given]
            return number(float(op.reference(*inputs, gene.gamma, limits)))
        if gene.op == "div" and given[1].is_Number:  # a constant denominator: fold the table's smallest one in
            sign = -1.0 if given[1] < 0 else 1.0
            return given[0] / number(sign * max(abs(float(given[1])), ops.SAFE_DENOMINATOR))
        # mix takes γ as a float; elsewhere γ becomes part of the expression
        gamma = gene.gamma if gene.gamma is None or op.arity == 2 else number(gene.gamma)
        return sympy.sympify(op.sympy(space, *given, gamma))

    inner = apply("b1", apply("u1", X), apply("u2", X))
    return apply("b2", apply("u3", inner), apply("u4", X))


def _rounded(expr: Any) -> Any:
    """Round constants to ``DIGITS`` significant digits, so that 0.99999x reads x."""
    return expr.xreplace({f: number(float(f"{float(f):.{DIGITS}g}")) for f in expr.atoms(sympy.Float)})


class _Text(StrPrinter):
    """Print Python-like text with torch's names."""

    def _print_Float(self, expr: Any) -> str:
        return f"{float(expr):.{DIGITS}g}"

    def _print_Abs(self, expr: Any) -> str:
        return f"abs({self._print(expr.args[0])})"


class _Latex(LatexPrinter):
    def _print_Float(self, expr: Any) -> str:
        mantissa, _, power = f"{float(expr):.{DIGITS}g}".partition("e")
        if not power:
            return mantissa
        return rf"10^{{{int(power)}}}" if mantissa == "1" else rf"{mantissa} \cdot 10^{{{int(power)}}}"


def written(expr: Any) -> str:
    """Return an expression as plain text, such as ``asinh(GELU(x)*sigmoid(GELU(x)))``."""
    text: str = _Text().doprint(_rounded(expr))
    return text


def written_latex(expr: Any) -> str:
    """Return an expression in LaTeX, without dollar signs."""
    latex: str = _Latex({"inv_trig_style": "full"}).doprint(_rounded(expr))
    return latex
