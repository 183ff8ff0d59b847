"""Represent a found activation as data: six operations and their constants, looked up in a table, never run as text.

The cell (Strack, Safari, Hutter 2024, arXiv 2408.06820): b(x) = B1(U1(x), U2(x)); f(x) = B2(U3(b(x)), U4(x)).
This module has its file format ``grafs-cell/1``, its value on tensors, and its formula as text and LaTeX.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Callable
from dataclasses import InitVar, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import GenotypeError
from ..utils import dtypes, strict_json, suggest
from ..utils.files import write_json
from . import ops

FORMAT = "grafs-cell/1"
MAX_BYTES = 1_000_000
_DERIVED = ("formula", "latex", "sha256")
_KEYS = ("format", *ops.SLOTS, "bound", *_DERIVED)
_KIND = {1: "unary", 2: "binary"}


@dataclass(frozen=True)
class Gene:
    """Hold one slot's operation and its learnt constant.

    Args:
        op: Name of a row of the table of operations.
        gamma: The constant γ, for operations that have one.

    >>> Gene("gelu")
    Gene(op='gelu', gamma=None)
    >>> Gene("scale", 0.5)
    Gene(op='scale', gamma=0.5)
    """

    op: str
    gamma: float | None = None


@dataclass(frozen=True)
class Genotype:
    """A found activation: f(x) = B2(U3(b(x)), U4(x)) with b(x) = B1(U1(x), U2(x)), callable on tensors.

    Args:
        u1, u2, b1, u3, u4, b2: The gene of each slot; ``u`` slots take unary operations, ``b`` slots binary ones.
        bound: Where growing operations saturate (ℓ of the paper). None lifts the search's limits (``ops.LIFTED``).
        source: Names the genotype in error messages; not stored.

    Raises:
        GenotypeError: A gene or the bound is unknown, misspelt or out of range; names the slot.

    >>> swish = Genotype(Gene("identity"), Gene("sigmoid"), Gene("mul"), Gene("identity"), Gene("identity"), Gene("left"))
    >>> swish.text
    'x*sigmoid(x)'
    >>> swish(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.2689,  0.0000,  0.7311])
    >>> Genotype.from_dict(swish.to_dict()) == swish
    True
    """

    u1: Gene
    u2: Gene
    b1: Gene
    u3: Gene
    u4: Gene
    b2: Gene
    bound: float | None = None
    source: InitVar[str] = "genotype"

    def __post_init__(self, source: str) -> None:
        for slot in ops.SLOTS:
            object.__setattr__(self, slot, _checked_gene(slot, getattr(self, slot), source))
        if self.bound is not None:
            object.__setattr__(self, "bound", _checked_bound(self.bound, source))

    @property
    def limits(self) -> ops.Limits:
        """Return where the operations of this function saturate."""
        return ops.LIFTED if self.bound is None else ops.Limits(bound=self.bound)

    def genes(self) -> dict[str, Gene]:
        """Return slot name -> gene, in slot order."""
        return {slot: getattr(self, slot) for slot in ops.SLOTS}

    def __call__(self, x: Tensor) -> Tensor:
        """Compute f(x) elementwise.

        Args:
            x: float16, bfloat16, float32 or float64, of any shape.

        Returns:
            f(x), of x's shape and dtype. 16-bit inputs are computed in float32 and rounded once; the result saturates at the
            dtype's largest number.

        Raises:
            TensorError: x has another dtype.
        """
        return evaluate(self, x, self.limits)

    def within(self, top: float) -> Callable[[Tensor], Tensor]:
        """Return the function for a dtype whose largest number is ``top``, on tensors of any dtype."""
        return partial(evaluate, self, limits=replace(self.limits, bound=min(self.limits.bound, top)))

    @classmethod
    def from_dict(cls, data: object, source: str = "genotype", derived: bool = False) -> Genotype:
        """Read a genotype from parsed JSON.

        Args:
            data: As `to_dict` returns it. A hash in it is compared with the genotype's own.
            source: Names the file in errors.
            derived: Compare formula and LaTeX in ``data`` too, which imports sympy: for files that somebody may have edited.

        Raises:
            GenotypeError: A field is missing, unknown, misspelt, out of range or contradicts the others; names it.
        """
        if not isinstance(data, dict):
            raise GenotypeError(f"{source}: must be a JSON object, got {reprlib.repr(data)}")
        _refuse_unknown(data, _KEYS, source)
        if data.get("format") != FORMAT:
            found = reprlib.repr(data["format"]) if "format" in data else "nothing"
            raise GenotypeError(f"{source}: format must be {FORMAT!r}, found {found}")
        genes = {slot: _parsed_gene(slot, data, source) for slot in ops.SLOTS}
        if "bound" in data and data["bound"] is None:
            raise GenotypeError(f"{source}: bound: must be a number, got null; leave it out to lift the bound")
        genotype = cls(**genes, bound=data.get("bound"), source=source)
        if "sha256" in data and data["sha256"] != genotype.sha256:
            found = reprlib.repr(data["sha256"])
            raise GenotypeError(f"{source}: sha256 is {found}, the genotype's own is {genotype.sha256}: file altered")
        if derived:
            _compare_text(genotype, data, source)
        return genotype

    def to_dict(self, derived: bool = False) -> dict[str, Any]:
        """Return what a genotype file holds, with ``derived`` also formula, LaTeX and hash."""
        data: dict[str, Any] = {"format": FORMAT}
        for slot, gene in self.genes().items():
            data[slot] = {"op": gene.op} if gene.gamma is None else {"op": gene.op, "gamma": gene.gamma}
        if self.bound is not None:
            data["bound"] = self.bound
        if derived:
            data |= {"formula": self.text, "latex": self.latex, "sha256": self.sha256}
        return data

    def canonical(self) -> str:
        """Return the defining fields as one line of JSON, with sorted keys and numbers that round-trip: what is hashed."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @property
    def sha256(self) -> str:
        """Return the hash of `canonical`, which identifies the function in files."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    @cached_property
    def text(self) -> str:
        """Return the simplified formula as one would type it, such as ``asinh(GELU(x)*sigmoid(GELU(x)))``."""
        from . import formula

        return formula.written(formula.expression(self.genes(), self.limits))

    @cached_property
    def latex(self) -> str:
        """Return the simplified formula in LaTeX, without dollar signs."""
        from . import formula

        return formula.written_latex(formula.expression(self.genes(), self.limits))


def evaluate(genotype: Genotype, x: Tensor, limits: ops.Limits) -> Tensor:
    """Compute f(x) as ``Genotype.__call__`` does, but under the given limits instead of the genotype's own."""
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


def load(path: str | Path, derived: bool = False) -> Genotype:
    """Read a genotype file.

    Args:
        path: The file, of at most 1 MB.
        derived: As in `Genotype.from_dict`.

    Raises:
        GenotypeError: The file is missing or holds no genotype; names the file and the field.
    """
    source = str(path)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        within = "; name the genotype.json in it" if isinstance(error, IsADirectoryError) else ""
        raise GenotypeError(f"{source}: cannot be read: {reason}{within}") from error
    try:
        data = strict_json.parse(content, MAX_BYTES)
    except ValueError as error:
        raise GenotypeError(f"{source}: not a genotype: {error}") from error
    return Genotype.from_dict(data, source, derived)


def save(genotype: Genotype, path: str | Path) -> Path:
    """Write the genotype with its derived fields, whole or not at all.

    Raises:
        RunError: The disk is full or read-only.
    """
    return write_json(path, genotype.to_dict(derived=True))


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
    return Gene(held["op"], held.get("gamma"))


def _checked_gene(slot: str, gene: object, source: str) -> Gene:
    """Return the gene with its constant as a float. GenotypeError, as for the public functions, where it does not fit."""
    if not isinstance(gene, Gene):
        raise GenotypeError(f"{source}: {slot} must be a Gene, got {reprlib.repr(gene)}")
    name: object = gene.op
    gamma, arity, where = gene.gamma, ops.SLOTS[slot], f"{source}: {slot}"
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
    return float(value) + 0.0  # −0 and 0 are the same constant and must have the same hash


def _compare_text(genotype: Genotype, data: dict[str, Any], source: str) -> None:
    for key, attribute in (("formula", "text"), ("latex", "latex")):
        if key in data and data[key] != getattr(genotype, attribute):
            found, own = reprlib.repr(data[key]), getattr(genotype, attribute)
            raise GenotypeError(f"{source}: {key} is {found}, the genotype's own is {own!r}; leave the field out if unsure")


def random_genotype(rng: np.random.Generator, wide: bool = False) -> Genotype:
    """Draw six operations uniformly from the candidates, and each γ from the distribution the search starts it with.

    Args:
        rng: NumPy generator; the same state gives the same genotype.
        wide: Draw from the wider set of candidates.

    >>> random_genotype(np.random.default_rng(0)).text
    '-x + min(SiLU(x), ReLU(x)) + 1.16'
    """
    genes: dict[str, Any] = {}
    for slot, names in ops.candidates(wide).items():
        op = ops.get(names[rng.integers(len(names))], ops.SLOTS[slot])
        genes[slot] = Gene(op.name, float(rng.normal(*op.gamma_init)) if op.gamma_init else None)
    return Genotype(**genes)
