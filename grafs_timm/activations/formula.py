"""A found activation as data: six operations and their constants, read from JSON by look-up, never run as text.

The cell (Strack, Safari, Hutter 2024, arXiv 2408.06820): b(x) = B1(U1(x), U2(x)); f(x) = B2(U3(b(x)), U4(x)).
Here are its file format ``grafs-cell/1``, its value on tensors, its formula as text and LaTeX, and the question whether
two cells are one function up to the scales a neighbouring layer absorbs.
"""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy  # loads its parts when they are used
import torch
from torch import Tensor

from ..errors import GenotypeError
from ..utils import dtypes, suggest
from ..utils.files import write_json
from ..utils.layout import undisturbed
from . import ops

FORMAT = "grafs-cell/1"
MAX_BYTES = 1_000_000
_DERIVED = ("formula", "latex", "sha256")
_KEYS = ("format", *ops.SLOTS, "bound", *_DERIVED)
_KIND = {1: "unary", 2: "binary"}

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Gene:
    """What one slot holds: the name of an operation of the table, and its learnt constant γ where it has one."""

    op: str
    gamma: float | None = None


@dataclass(frozen=True)
class Genotype:
    """A found activation, callable on tensors.

    ``bound`` None: the search's limits on growth are lifted (``ops.LIFTED``). A number: that ℓ is part of the function.
    Constructing one checks it as a file is checked: GenotypeError names the slot that does not fit.
    """

    u1: Gene
    u2: Gene
    b1: Gene
    u3: Gene
    u4: Gene
    b2: Gene
    bound: float | None = None

    def __post_init__(self) -> None:
        for slot in ops.SLOTS:
            gene = getattr(self, slot)
            if not isinstance(gene, Gene):
                raise GenotypeError(f"genotype: {slot} must be a Gene, got {reprlib.repr(gene)}")
            object.__setattr__(self, slot, _checked_gene(slot, gene.op, gene.gamma, "genotype"))
        if self.bound is not None:
            object.__setattr__(self, "bound", _checked_bound(self.bound, "genotype"))

    @property
    def limits(self) -> ops.Limits:
        return ops.LIFTED if self.bound is None else ops.Limits(bound=self.bound)

    def genes(self) -> dict[str, Gene]:
        """Slot name -> gene, in slot order."""
        return {slot: getattr(self, slot) for slot in ops.SLOTS}

    def __call__(self, x: Tensor) -> Tensor:
        """f(x) elementwise, for a floating tensor of any shape; the result has x's shape and dtype.

        16-bit inputs are computed in float32 throughout and rounded once, saturating at the dtype's largest number.
        TensorError for another dtype than float16, bfloat16, float32 and float64.
        """
        return evaluate(self, x, self.limits)

    @classmethod
    def from_dict(cls, data: object, source: str = "genotype", derived: bool = True) -> Genotype:
        """The genotype that ``data`` (parsed JSON) describes; ``source`` names the file in errors.

        The hash is compared where there is one; formula and LaTeX too unless ``derived`` is False, which spares the
        import of sympy. GenotypeError names the field for anything missing, unknown, misspelt or out of range.
        """
        if not isinstance(data, dict):
            raise GenotypeError(f"{source}: must be a JSON object, got {reprlib.repr(data)}")
        _refuse_unknown(data, _KEYS, source)
        if data.get("format") != FORMAT:
            found = reprlib.repr(data["format"]) if "format" in data else "nothing"
            raise GenotypeError(f"{source}: format must be {FORMAT!r}, found {found}")
        genes = {slot: _parsed_gene(slot, data, source) for slot in ops.SLOTS}
        bound = _checked_bound(data["bound"], source) if "bound" in data else None
        genotype = cls(**genes, bound=bound)
        if "sha256" in data and data["sha256"] != genotype.sha256:
            found = reprlib.repr(data["sha256"])
            raise GenotypeError(f"{source}: sha256 is {found}, the genotype's own is {genotype.sha256}: file altered")
        if derived:
            _compare_text(genotype, data, source)
        return genotype

    def to_dict(self, derived: bool = False) -> dict[str, Any]:
        """What the file holds; with ``derived`` also formula, LaTeX and hash."""
        data: dict[str, Any] = {"format": FORMAT}
        for slot, gene in self.genes().items():
            data[slot] = {"op": gene.op} if gene.gamma is None else {"op": gene.op, "gamma": gene.gamma}
        if self.bound is not None:
            data["bound"] = self.bound
        if derived:
            data |= {"formula": self.text, "latex": self.latex, "sha256": self.sha256}
        return data

    def canonical(self) -> str:
        """The essential fields as one line of JSON, keys sorted, every number in decimals that round-trip."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    @cached_property
    def text(self) -> str:
        """The simplified formula in plain characters, as one would type it: ``asinh(GELU(x)*sigmoid(GELU(x)))``."""
        from . import symbols

        return symbols.text(self.genes(), self.limits)

    @cached_property
    def latex(self) -> str:
        """The simplified formula in LaTeX, without dollar signs."""
        from . import symbols

        return symbols.latex(self.genes(), self.limits)


def evaluate(genotype: Genotype, x: Tensor, limits: ops.Limits) -> Tensor:
    """The cell's value under given limits rather than its own; else as ``Genotype.__call__``."""
    if x.dtype not in dtypes.DTYPES:
        dtypes.refuse("an activation", x.dtype, x.device)
    top = torch.finfo(x.dtype).max
    inside = ops.Limits(min(limits.bound, top), limits.floor)
    wide = x.dtype in (torch.float32, torch.float64)
    inputs = x if wide else x.float()

    def apply(slot: str, *given: Tensor) -> Tensor:
        gene: Gene = getattr(genotype, slot)
        return ops.OPS[len(given)][gene.op].compute(*given, gamma=gene.gamma, limits=inside)

    def join(slot: str, left: Callable[[], Tensor], right: Callable[[], Tensor]) -> Tensor:
        dropped = {"left": left, "right": right}.get(getattr(genotype, slot).op)
        return dropped() if dropped else apply(slot, left(), right())

    def inner() -> Tensor:
        return join("b1", lambda: apply("u1", inputs), lambda: apply("u2", inputs))

    result = join("b2", lambda: apply("u3", inner()), lambda: apply("u4", inputs))
    return result if wide else result.clamp(-top, top).to(x.dtype)


def load(path: str | Path, derived: bool = True) -> Genotype:
    """Read a genotype file. GenotypeError names the file and the field, whatever the file holds or if there is none."""
    source = str(path)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        within = "; name the genotype.json in it" if isinstance(error, IsADirectoryError) else ""
        raise GenotypeError(f"{source}: cannot be read: {reason}{within}") from error
    if len(content) > MAX_BYTES:
        raise GenotypeError(f"{source}: larger than {MAX_BYTES:,} bytes, a genotype has under a thousand")
    try:
        data = json.loads(content.decode("utf-8"), object_pairs_hook=_once_each, parse_constant=_refuse_constant)
    except RecursionError:
        raise GenotypeError(f"{source}: nested too deep for a genotype") from None
    except ValueError as error:  # not UTF-8, not JSON, a key twice, NaN, a number of thousands of digits
        raise GenotypeError(f"{source}: not JSON: {error}") from error
    return Genotype.from_dict(data, source, derived)


def save(genotype: Genotype, path: str | Path) -> Path:
    """Write the genotype with its derived fields, whole or not at all. RunError where the disk is full or read-only."""
    return write_json(path, genotype.to_dict(derived=True))


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in pairs:
        if key in data:
            raise ValueError(f"key {reprlib.repr(key)} stands twice in one object")
        data[key] = value
    return data


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number a genotype can hold")


def _refuse_unknown(data: dict[Any, Any], known: tuple[str, ...], where: str) -> None:
    for key in data:
        if key not in known:
            raise GenotypeError(f"{where}: unknown key {reprlib.repr(key)}{_nearest(key, known)}")


def _nearest(word: object, known: tuple[str, ...]) -> str:
    return suggest.nearest(str(word)[:100], known)


def _parsed_gene(slot: str, data: dict[str, Any], source: str) -> Gene:
    if slot not in data:
        raise GenotypeError(f"{source}: {slot} is missing; a genotype has {', '.join(ops.SLOTS)}")
    held, where = data[slot], f"{source}: {slot}"
    if not isinstance(held, dict):
        raise GenotypeError(f'{where}: must be an object like {{"op": "gelu"}}, got {reprlib.repr(held)}')
    _refuse_unknown(held, ("op", "gamma"), where)
    if "op" not in held:
        raise GenotypeError(f"{where}: op is missing")
    if "gamma" in held and held["gamma"] is None:
        raise GenotypeError(f"{where}.gamma: must be a number, got null")
    return _checked_gene(slot, held["op"], held.get("gamma"), source)


def _checked_gene(slot: str, name: object, gamma: object, source: str) -> Gene:
    arity, where = ops.SLOTS[slot], f"{source}: {slot}"
    rows = ops.OPS[arity]
    if not isinstance(name, str) or name not in rows:
        if isinstance(name, str) and name in ops.OPS[3 - arity]:
            raise GenotypeError(f"{where}.op: {name!r} is {_KIND[3 - arity]}, {slot} takes a {_KIND[arity]} operation")
        near = _nearest(name, tuple(rows))
        raise GenotypeError(f"{where}.op: no {_KIND[arity]} operation {reprlib.repr(name)}{near}")
    if not rows[name].has_gamma:
        if gamma is not None:
            raise GenotypeError(f"{where}.gamma: {name} has no constant, got {reprlib.repr(gamma)}")
        return Gene(name)
    if gamma is None:
        raise GenotypeError(f"{where}.gamma: missing, {name} needs its constant")
    value = _number(gamma, f"{where}.gamma")
    if abs(value) > ops.GAMMA_MAX:
        raise GenotypeError(f"{where}.gamma: must be within ±{ops.GAMMA_MAX:g}, got {value:g}")
    return Gene(name, value)


def _checked_bound(bound: object, source: str) -> float:
    value = _number(bound, f"{source}: bound")
    if not 0 < value <= ops.LIFTED.bound:
        raise GenotypeError(
            f"{source}: bound must be above 0 and at most {ops.LIFTED.bound:g}, got {value:g}; leave it out to lift it"
        )
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise GenotypeError(f"{where}: must be a number, got {reprlib.repr(value)}")
    if abs(value) > 1e300 or value != value:
        raise GenotypeError(f"{where}: must be finite, got {reprlib.repr(value)}")
    return float(value) + 0.0  # −0 and 0 are one constant and must have one hash


def _compare_text(genotype: Genotype, data: dict[str, Any], source: str) -> None:
    for key, attribute in (("formula", "text"), ("latex", "latex")):
        if key in data and data[key] != getattr(genotype, attribute):
            found, own = reprlib.repr(data[key]), getattr(genotype, attribute)
            raise GenotypeError(f"{source}: {key} is {found}, the genotype's own is {own!r}; leave the field out if unsure")


def random_genotype(rng: np.random.Generator, wide: bool = False) -> Genotype:
    """Six operations drawn uniformly from the candidates, each γ from where the search starts it."""
    genes: dict[str, Any] = {}
    for slot, names in ops.candidates(wide).items():
        op = ops.get(names[rng.integers(len(names))], ops.SLOTS[slot])
        genes[slot] = Gene(op.name, float(rng.normal(*op.gamma_init)) if op.gamma_init else None)
    return Genotype(**genes)


# x ~ N(0, 1) as a midpoint rule: 640 cells on [−5, 5], where 0 (the kink of most functions) falls between two of them.
with undisturbed():
    _X = torch.linspace(-5, 5, 641, dtype=torch.float64, device="cpu")[:-1] + 5 / 640
    _WEIGHT = torch.exp(-_X.square() / 2) / torch.exp(-_X.square() / 2).sum()
    _SCALES = torch.logspace(-4, 4, 97, base=2, dtype=torch.float64, device="cpu")
_CONSTANT = 1e-9  # a spread of less than this share of the value is rounding


def distance(f: Function, g: Function, refine: bool = True) -> float:
    """How far f is from g once scales are absorbed: min over c and k of ‖g(x) − c·f(kx)‖ ÷ ‖g‖, x ~ N(0, 1).

    k has either sign and 1/16 ≤ |k| ≤ 16; c is any number, in closed form. f and g map float64 tensors elementwise.
    Between 0 and 1. A constant is only near a constant: 0 where both are 0 or neither is, else 1.
    Without ``refine`` k is one of 97 on each side: an upper bound, much sooner. ValueError where g is not finite.
    """
    target = g(_X)
    if not target.isfinite().all():
        raise ValueError("the function to compare with is not finite on [−5, 5]")
    target = target / target.abs().max().clamp(min=torch.finfo(target.dtype).tiny)
    f_constant, g_constant = _constant(f(_X)), _constant(target)
    if f_constant is not None or g_constant is not None:
        same = f_constant is not None and g_constant is not None and (f_constant == 0) == (g_constant == 0)
        return 0.0 if same else 1.0

    def at(scales: Tensor) -> Tensor:
        return _residual(f(scales[:, None] * _X), target)

    def refined(sign: float) -> float:
        coarse = at(sign * _SCALES)
        best = int(coarse.argmin())
        if not refine:
            return float(coarse[best])
        low, high = (math.log2(_SCALES[i]) for i in (max(best - 1, 0), min(best + 1, len(_SCALES) - 1)))
        fine = scipy.optimize.minimize_scalar(
            lambda log: at(_X.new_tensor([sign * 2.0**log])).item(),
            bounds=(low, high), method="bounded", options={"xatol": 1e-7},
        )  # fmt: skip
        return min(float(coarse[best]), float(fine.fun))

    return min(refined(1.0), refined(-1.0))


def _constant(values: Tensor) -> float | None:
    """The one value these are, up to rounding, or None where they differ."""
    size = float(values.abs().max())
    return float(values[0]) if float(values.max() - values.min()) <= _CONSTANT * size else None


def _residual(values: Tensor, target: Tensor) -> Tensor:
    """‖target − c·values‖ ÷ ‖target‖ with the best c for each row of values; 1 where a row is 0 or not finite."""
    values = torch.where(values.isfinite().all(-1, keepdim=True), values, 0.0)
    values = values / values.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    c = (values * target * _WEIGHT).sum(-1) / (values.square() * _WEIGHT).sum(-1).clamp(min=1e-300)
    left = (target - c[:, None] * values).square() * _WEIGHT
    return (left.sum(-1) / (target.square() * _WEIGHT).sum()).sqrt()


def same_function(a: Function, b: Function, tolerance: float = 1e-3) -> bool:
    """Whether two functions are one discovery: each within ``tolerance`` of the other by ``distance``."""
    return max(distance(a, b), distance(b, a)) <= tolerance


def leans_on_bound(genotype: Genotype, tolerance: float = 1e-2) -> bool:
    """Whether the function changes when the search's limits are lifted, by more than ``tolerance`` of its norm.

    Compared for x ~ N(0, 1), |x| ≤ 4, in float64, under ``ops.SEARCH`` and ``ops.LIFTED`` (the genotype's own bound
    plays no part). What was found under a bound it leans on is another function without it.
    """
    x, weight = _X[_X.abs() <= 4], _WEIGHT[_X.abs() <= 4]
    bounded, lifted = evaluate(genotype, x, ops.SEARCH), evaluate(genotype, x, ops.LIFTED)
    apart = ((lifted - bounded).square() * weight).sum().sqrt()
    return bool(apart > tolerance * (bounded.square() * weight).sum().sqrt())
