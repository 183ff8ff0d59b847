"""A found activation as data: genotype ↔ JSON ↔ formula, and when two of them are one function.

    b(x) = B1(U1(x), U2(x))          f(x) = B2(U3(b(x)), U4(x))

Reading is table look-up: nothing in a file is evaluated, imported or unpickled. sympy, which writes the formulas, is loaded
when one is asked for (symbolic.py).
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from . import ops
from .errors import GenotypeError
from .files import write_json

FORMAT = "grafs-cell/1"
_DERIVED = ("formula", "latex", "sha256")
_LARGEST_FILE = 1_000_000  # bytes; a genotype has a few hundred


@dataclass(frozen=True)
class Gene:
    """One slot's choice: an operation's name, and its constant γ where the operation has one."""

    op: str
    gamma: float | None = None


@dataclass(frozen=True)
class Genotype:
    """The six genes of a cell. ``bound``: ℓ of the growing operations where it is part of the function; None: lifted."""

    u1: Gene
    u2: Gene
    b1: Gene
    u3: Gene
    u4: Gene
    b2: Gene
    bound: float | None = None

    def __post_init__(self) -> None:
        for slot, gene in self.genes().items():
            _check_gene("genotype", slot, gene.op, gene.gamma)
        if self.bound is not None and not 0 < self.bound <= ops.LIFTED.bound:
            raise GenotypeError(f"genotype: bound must lie in (0, {ops.LIFTED.bound:g}], got {self.bound!r}")

    def genes(self) -> dict[str, Gene]:
        """Slot name -> gene, in slot order."""
        return {slot: getattr(self, slot) for slot in ops.SLOTS}

    @property
    def limits(self) -> ops.Limits:
        return ops.LIFTED if self.bound is None else ops.Limits(self.bound, ops.SEARCH.floor)

    def __call__(self, x: Tensor) -> Tensor:
        """f(x), elementwise: any shape, floating dtype in and out; 16-bit inputs are computed in float32.

        Saturates at the dtype's largest finite number. TypeError for other dtypes.
        """
        if not x.dtype.is_floating_point:
            raise TypeError(f"an activation takes floating point tensors, got {x.dtype}; convert with x.float()")
        if x.dtype in (torch.float32, torch.float64):
            return self.compute(x, self.limits)
        top = torch.finfo(x.dtype).max
        inside = ops.Limits(min(self.limits.bound, top), self.limits.floor)
        return self.compute(x.float(), inside).clamp(-top, top).to(x.dtype)

    def compute(self, x: Tensor, limits: ops.Limits) -> Tensor:
        """f(x) in x's own float32 or float64, within ``limits``; what left and right throw away is not computed."""

        def binary(slot: str, first: Callable[[], Tensor], second: Callable[[], Tensor]) -> Tensor:
            gene: Gene = getattr(self, slot)
            if gene.op == "left":
                return first()
            return second() if gene.op == "right" else _apply(slot, gene, limits, first(), second())

        def unary(slot: str, argument: Callable[[], Tensor]) -> Tensor:
            return _apply(slot, getattr(self, slot), limits, argument())

        def inner() -> Tensor:
            return binary("b1", lambda: unary("u1", lambda: x), lambda: unary("u2", lambda: x))

        return binary("b2", lambda: unary("u3", inner), lambda: unary("u4", lambda: x))

    @property
    def text(self) -> str:
        """The simplified formula as text, such as ``asinh(σ(GELU(x))·GELU(x))``."""
        from .symbolic import text

        return text(self)

    @property
    def latex(self) -> str:
        """The simplified formula as LaTeX."""
        from .symbolic import latex

        return latex(self)

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def canonical(self) -> str:
        """The essential fields as compact JSON with sorted keys: what the hash is of."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    def to_dict(self, derived: bool = False) -> dict[str, Any]:
        """As JSON values; with formula, LaTeX and hash where ``derived``."""
        data: dict[str, Any] = {"format": FORMAT}
        for slot, gene in self.genes().items():
            data[slot] = {"op": gene.op} if gene.gamma is None else {"op": gene.op, "gamma": gene.gamma}
        if self.bound is not None:
            data["bound"] = self.bound
        return data | {"formula": self.text, "latex": self.latex, "sha256": self.sha256} if derived else data

    @classmethod
    def from_dict(cls, data: Any, source: str = "genotype") -> Genotype:
        """Read and check; GenotypeError names ``source`` and the field. Derived fields, where given, must fit."""
        if not isinstance(data, Mapping):
            raise GenotypeError(f"{source}: a genotype is a JSON object, got {type(data).__name__}")
        if data.get("format") != FORMAT:
            raise GenotypeError(f"{source}: format must be {FORMAT!r}, got {_shown(data.get('format'))}")
        known = ("format", *ops.SLOTS, "bound", *_DERIVED)
        for key in data:
            if key not in known:
                raise GenotypeError(f"{source}: unknown field {_shown(key)}{ops.nearest(key, known)}")
        genes = {slot: _read_gene(source, slot, data) for slot in ops.SLOTS}
        bound = data.get("bound")
        if bound is not None and not (_is_number(bound) and 0 < bound <= ops.LIFTED.bound):
            raise GenotypeError(f"{source}: bound must be a number in (0, {ops.LIFTED.bound:g}], got {_shown(bound)}")
        genotype = cls(**genes, bound=None if bound is None else float(bound))
        for key in reversed(_DERIVED):
            if key in data and data[key] != (right := genotype.sha256 if key == "sha256" else getattr(genotype, _of(key))):
                raise GenotypeError(
                    f"{source}: {key} does not belong to this genotype: {_shown(data[key])}, should be {right!r}"
                )
        return genotype


def _of(key: str) -> str:
    return "text" if key == "formula" else key


def _apply(slot: str, gene: Gene, limits: ops.Limits, *inputs: Tensor) -> Tensor:
    return ops.OPS[ops.SLOTS[slot]][gene.op].compute(*inputs, gamma=gene.gamma, limits=limits)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= ops.LIFTED.bound  # false for NaN, infinities and huge integers


def _shown(value: Any) -> str:
    """A value out of a file, cut to a length that fits a message."""
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _check_gene(source: str, slot: str, op: Any, gamma: Any) -> None:
    arity = ops.SLOTS[slot]
    if not isinstance(op, str):
        raise GenotypeError(f"{source}: {slot}.op must be an operation's name, got {_shown(op)}")
    if op not in ops.OPS[arity]:
        if op in ops.OPS[3 - arity]:
            raise GenotypeError(f"{source}: {slot}.op {op!r} takes {3 - arity} input(s), {slot} has {arity}")
        raise GenotypeError(f"{source}: {slot}.op: no operation {_shown(op)}{ops.nearest(op[:80], ops.OPS[arity])}")
    if ops.OPS[arity][op].has_gamma:
        if gamma is None:
            raise GenotypeError(f"{source}: {slot}.gamma is missing: {op} has a constant")
        if not _is_number(gamma) or abs(gamma) > ops.GAMMA_MAX:
            raise GenotypeError(f"{source}: {slot}.gamma must be a number within ±{ops.GAMMA_MAX:g}, got {_shown(gamma)}")
    elif gamma is not None:
        raise GenotypeError(f"{source}: {slot}.gamma: {op} has no constant")


def _read_gene(source: str, slot: str, data: Mapping[str, Any]) -> Gene:
    if slot not in data:
        raise GenotypeError(f"{source}: {slot} is missing")
    raw = data[slot]
    if not isinstance(raw, Mapping) or "op" not in raw:
        raise GenotypeError(f'{source}: {slot} must look like {{"op": "silu"}}, got {_shown(raw)}')
    for key in raw:
        if key not in ("op", "gamma"):
            raise GenotypeError(f"{source}: {slot}: unknown field {_shown(key)}{ops.nearest(key, ('op', 'gamma'))}")
    if "gamma" in raw and raw["gamma"] is None:
        raise GenotypeError(f"{source}: {slot}.gamma must be a number, got null")
    _check_gene(source, slot, raw["op"], raw.get("gamma"))
    return Gene(raw["op"], float(raw["gamma"]) if "gamma" in raw else None)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"field {next(k for k in names if names.count(k) > 1)!r} stands twice")
    return data


def load(path: str | Path) -> Genotype:
    """Read a genotype file. GenotypeError, naming the file and the field, for whatever is not one."""
    try:
        with open(path, "rb") as file:
            raw = file.read(_LARGEST_FILE + 1)
        if len(raw) > _LARGEST_FILE:
            raise GenotypeError(f"{path}: larger than {_LARGEST_FILE} bytes: not a genotype")
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except FileNotFoundError:
        raise GenotypeError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, GenotypeError):
            raise
        raise GenotypeError(f"{path}: not a genotype file: {error}") from error
    return Genotype.from_dict(data, source=str(path))


def save(genotype: Genotype, path: str | Path) -> Path:
    """Write a genotype with its formula, LaTeX and hash; the file appears whole."""
    return write_json(path, genotype.to_dict(derived=True))


def random_genotype(rng: np.random.Generator, wide: bool = False) -> Genotype:
    """A cell drawn uniformly from the space, its γ from where the search starts them."""
    genes = {}
    for slot, names in ops.candidates(wide).items():
        op = ops.OPS[ops.SLOTS[slot]][str(rng.choice(names))]
        genes[slot] = Gene(op.name, float(rng.normal(*op.gamma_init)) if op.gamma_init else None)
    return Genotype(**genes)


def _grid() -> tuple[Tensor, Tensor]:
    """Points and weights of the expectation under N(0, 1)."""
    x = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    weight = torch.exp(-x * x / 2)
    return x, weight / weight.sum()


def distance(f: Callable[[Tensor], Tensor], g: Callable[[Tensor], Tensor]) -> float:
    """min over c and k of ‖g(x) − c·f(kx)‖ / ‖g‖ in L2 under N(0, 1): how far f is from g, up to an outer and an inner scale.

    f, g: elementwise on float64 tensors. k of either sign, 1/16 ≤ |k| ≤ 16; c has a closed form. In [0, 1]; the scales are
    what neighbouring layers absorb.
    """
    x, weight = _grid()
    target = g(x).detach()
    norm = (weight * target * target).sum()
    if norm == 0:
        return 0.0 if bool((f(x) == 0).all()) else 1.0

    def gap(k: Tensor) -> Tensor:
        values = f(k[:, None] * x).detach()
        cross, power = (weight * values * target).sum(1), (weight * values * values).sum(1)
        c = torch.where(power > 0, cross / power.clamp(min=1e-300), 0.0)
        return ((weight * (target - c[:, None] * values) ** 2).sum(1) / norm).clamp(min=0).sqrt()

    log_k = torch.linspace(-math.log(16), math.log(16), 97, dtype=torch.float64)
    k = torch.cat([log_k.exp(), -log_k.exp()])
    coarse = gap(k)
    best = int(coarse.argmin())
    sign, centre, step = float(k[best].sign()), float(log_k[best % 97]), float(log_k[1] - log_k[0])

    def at(value: float) -> float:
        return float(gap(torch.tensor([sign * math.exp(value)], dtype=torch.float64)))

    fine = minimize_scalar(at, bounds=(centre - step, centre + step), method="bounded", options={"xatol": 1e-7})
    return min(float(coarse[best]), float(fine.fun))


def same_function(f: Callable[[Tensor], Tensor], g: Callable[[Tensor], Tensor], tolerance: float = 1e-3) -> bool:
    """Whether f and g are one function up to an outer and an inner scale: each within ``tolerance`` of the other."""
    return distance(f, g) < tolerance and distance(g, f) < tolerance


def leans_on_bound(genotype: Genotype, tolerance: float = 1e-2) -> bool:
    """Whether the search's limits shape the function: lifted, it would be another one (relative L2 under N(0, 1))."""
    x, weight = _grid()
    bounded, lifted = (genotype.compute(x, limits) for limits in (ops.SEARCH, ops.LIFTED))
    change = (weight * (bounded - lifted) ** 2).sum()
    return bool(change > tolerance**2 * (weight * bounded**2).sum())
