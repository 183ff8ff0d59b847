"""The relaxed cell: six slots, each a Dirichlet mixture of the candidates that are still alive.

Source: Strack, Safari, Hutter 2024, the search space, and DrNAS with an independent draw at every site and forward pass:

    b(x) = B1(U1(x), U2(x))          f(x) = B2(U3(b), U4(x))
    slot s:  Σₖ w[s,k]·opₖ(inputs),  w[s] ~ Dir(ρ[s]),  ρ[s] = ELU(α[s]) + 1

``evaluate`` is the reference, on whatever tensor it is given. ``tabulate`` is what the search calls, on the knots of a grid,
for all sites at once; compiled, it masks the dropped candidates rather than leaves them out, so that its shapes stay as they
are through the search and it is compiled once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..activations import ops
from ..activations.formula import Gene, Genotype, leans_on_bound
from ..utils.compiled import fused
from .table import SPECIAL, Grid

RHO_FLOOR = 1e-4  # below it a Dirichlet sample underflows and its gradient is NaN
_DROPPED = 1e-30  # the concentration that stands for none: its share of a sample is 0 in every precision

Weights = dict[str, Tensor]
Terms = Mapping[str, Sequence[tuple[int, ops.Op, int | None]]]  # slot -> (candidate, its operation, where its γ is)


def _relaxed(
    x: Tensor, weights: Mapping[str, Tensor], gamma: Mapping[str, Tensor], terms: Terms, limits: ops.Limits,
    masks: Mapping[str, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """The cell as a sum over ``terms``: x [n] or [sites, n] -> [sites, n]. ``masks`` [candidates] silence what is dropped."""

    def output(slot: str, term: tuple[int, ops.Op, int | None], inputs: tuple[Tensor, ...]) -> Tensor:
        k, op, at = term
        constant = None if at is None else gamma[slot][at].to(inputs[0].dtype)
        y = op.compute(*inputs, gamma=constant, limits=limits)
        return y if masks is None else torch.where(masks[slot][k], y, 0.0)  # at ±∞ a weight of 0 would not be enough

    def mixture(slot: str, *inputs: Tensor) -> Tensor:
        weight = weights[slot].to(inputs[0].dtype)[:, [k for k, *_ in terms[slot]]]
        outputs = torch.stack([output(slot, term, inputs) for term in terms[slot]], dim=-2)
        # where x is the same at every site each candidate is computed once: [candidates, n], else [sites, candidates, n]
        return weight @ outputs if outputs.dim() == 2 else (weight[:, None] @ outputs)[:, 0]

    return mixture("b2", mixture("u3", mixture("b1", mixture("u1", x), mixture("u2", x))), mixture("u4", x))


def _places(slot: str, names: Sequence[str]) -> dict[str, int]:
    """Candidate -> where its γ stands among the slot's constants, for those that have one."""
    return {name: at for at, name in enumerate(n for n in names if ops.OPS[ops.SLOTS[slot]][n].has_gamma)}


def _terms(names: Mapping[str, Sequence[str]], which: Mapping[str, Sequence[int]]) -> Terms:
    """The candidates ``which`` of the slots, each with its operation and its place among the slot's constants."""
    terms = {}
    for slot, of in names.items():
        rows = [ops.OPS[ops.SLOTS[slot]][name] for name in of]
        places = _places(slot, of)
        terms[slot] = [(k, rows[k], places.get(rows[k].name)) for k in which[slot]]
    return terms


@functools.cache
def _compiled(wide: bool, limits: ops.Limits) -> Callable[..., Tensor]:
    """(x [n], weights, γ, masks) -> [sites, n] over all candidates; compiled at its first call, once for all such cells."""
    names = ops.candidates(wide)
    terms = _terms(names, {slot: range(len(of)) for slot, of in names.items()})

    def relaxed(x: Tensor, weights: Weights, gamma: Weights, masks: Weights) -> Tensor:
        return _relaxed(x, weights, gamma, terms, limits, masks)

    return fused(relaxed, "the cell's table")


def _detached(values: Mapping[str, Tensor]) -> Weights:
    return {slot: value.detach() for slot, value in values.items()}


class Cell(nn.Module):
    """α, γ and the survivors of the six slots, shared by all sites of a network.

    ``alpha[slot]``: [candidates] float32, starts at 1e-6·U(0, 1) so that none is favoured. ``gamma[slot]``: the slot's own
    learnable constants, one for each candidate that has one, starting N(1, 0.25²) in unaries and 0 in the mix.
    ``alive[slot]``: indices of the survivors, in table order.
    """

    mask: Tensor  # [slots, most candidates of a slot] bool: which are alive
    _flat_index: Tensor

    def __init__(self, wide: bool = False, limits: ops.Limits = ops.SEARCH) -> None:
        super().__init__()
        self.limits, self.wide = limits, wide
        self.names = ops.candidates(wide)
        self.alpha, self.gamma = nn.ParameterDict(), nn.ParameterDict()
        self._gamma_index = {slot: _places(slot, names) for slot, names in self.names.items()}
        for slot, names in self.names.items():
            self.alpha[slot] = nn.Parameter(1e-6 * torch.rand(len(names), device="cpu"))
            rows = [ops.OPS[ops.SLOTS[slot]][name] for name in names]
            values = [op.gamma_init[0] + op.gamma_init[1] * torch.randn((), device="cpu") for op in rows if op.gamma_init]
            self.gamma[slot] = nn.Parameter(torch.stack(values))
        self.alive: dict[str, list[int]] = {slot: list(range(len(names))) for slot, names in self.names.items()}
        sizes = [len(names) for names in self.names.values()]
        firsts = [sum(sizes[:i]) for i in range(len(sizes))]
        # where slot s's candidate k stands among all α in a row; beyond a slot's last candidate any place will do
        index = [[first + min(k, size - 1) for k in range(max(sizes))] for first, size in zip(firsts, sizes, strict=True)]
        self.register_buffer("_flat_index", torch.tensor(index, device="cpu"), persistent=False)
        self.register_buffer("mask", self._masks(), persistent=False)

    @property
    def survivors(self) -> dict[str, list[str]]:
        """Names of the candidates still alive, by slot."""
        return {slot: [self.names[slot][k] for k in alive] for slot, alive in self.alive.items()}

    @property
    def drops_left(self) -> int:
        return sum(len(alive) - 1 for alive in self.alive.values())

    @property
    def settled(self) -> bool:
        """Nothing is left to learn: one survivor in every slot, and none of them has a γ."""
        return not self.drops_left and not any(
            name in self._gamma_index[slot] for slot, names in self.survivors.items() for name in names
        )

    def _masks(self) -> Tensor:
        """[slots, most candidates of a slot] bool: which are alive."""
        masks = torch.zeros(self._flat_index.shape, dtype=torch.bool, device="cpu")
        for row, alive in zip(masks, self.alive.values(), strict=True):
            row[alive] = True
        return masks.to(self._flat_index.device)

    def draw(self, sites: int) -> Weights:
        """One independent draw per site: slot -> [sites, candidates] float32, 0 for the dropped, differentiable in α.

        All slots are one sample of static shape: a Dirichlet over all candidates in which the dropped have a concentration of
        next to none, renormalised over the survivors, is the Dirichlet over the survivors.
        """
        alpha = torch.cat(list(self.alpha.values())).float()[self._flat_index]
        with torch.autocast(alpha.device.type, enabled=False):
            concentration = (F.elu(alpha) + 1).clamp(min=RHO_FLOOR)
            alone = self.mask.sum(-1, keepdim=True) == 1  # has all of it, however low its α: a sample could underflow to 0/0
            concentration = torch.where(self.mask, torch.where(alone, 1.0, concentration), _DROPPED)
            sample = torch.distributions.Dirichlet(concentration, validate_args=False).rsample((sites,))
            kept = torch.where(self.mask, sample, 0.0)
            weights = kept / kept.sum(-1, keepdim=True)
        return self._by_slot(weights.detach() if self.settled else weights)

    def _by_slot(self, weights: Tensor) -> Weights:
        return {slot: weights[:, row, : len(names)] for row, (slot, names) in enumerate(self.names.items())}

    def choice(self, sites: int = 1) -> Weights:
        """The weights of the discrete cell that would be chosen now: 1 on each slot's largest α, at every site."""
        alpha = torch.cat(list(self.alpha.values())).detach()[self._flat_index].masked_fill(~self.mask, -torch.inf)
        chosen = F.one_hot(alpha.argmax(-1), alpha.shape[-1]).to(alpha.dtype)
        return self._by_slot(chosen.expand(sites, -1, -1))

    def evaluate(self, x: Tensor, weights: Mapping[str, Tensor], gamma: Mapping[str, Tensor] | None = None) -> Tensor:
        """The relaxed cell on x, [n] (the same for every site) or [sites, n] -> [sites, n], in float32 or x's float64.

        ``gamma`` stands in for the cell's own constants (the inner level hands in detached ones). Survivors alone are computed.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x if x.dtype == torch.float64 else x.float()
            return _relaxed(
                x, weights, dict(self.gamma) if gamma is None else gamma, _terms(self.names, self.alive), self.limits
            )

    def tabulate(self, grid: Grid, points: Tensor, weights: Mapping[str, Tensor], compiled: bool = False) -> Tensor:
        """The relaxed cell of every site on ``points``, those of ``grid``: [sites, intervals + 5, 2] rows for ``lookup``.

        Differentiable in the weights and γ where gradients are enabled. ``compiled``: all candidates in a few kernels, the
        dropped ones masked, compiled once for the whole search (half a minute the first time on a machine); else the
        survivors one by one.
        """
        function = self._masked if compiled else self.evaluate
        still, fixed = _detached(weights), _detached(dict(self.gamma))
        special = points.new_tensor(SPECIAL)
        if not torch.is_grad_enabled() or self.settled:
            values = function(torch.cat([points, special]), still, fixed)
            return grid.rows(values[:, :-3], values[:, -3:])
        with torch.no_grad():  # with gradients, 0 times the infinite slope here would spoil those of all other points
            beyond = function(special, still, fixed)
        return grid.rows(function(points, weights, dict(self.gamma)), beyond)

    def _masked(self, x: Tensor, weights: Mapping[str, Tensor], gamma: Mapping[str, Tensor]) -> Tensor:
        """``evaluate`` for float32 x [n], with the shapes of an undiminished cell."""
        masks = dict(zip(self.names, self.mask, strict=True))
        with torch.autocast(x.device.type, enabled=False):
            return _compiled(self.wide, self.limits)(x, dict(weights), dict(gamma), masks)

    def drop(self) -> tuple[str, str]:
        """Remove one candidate: of the slot with the most survivors (the first in slot order of several) the lowest α.

        Returns (slot, name). Raises RuntimeError when every slot has one survivor.
        """
        slot = max(self.alive, key=lambda s: len(self.alive[s]))  # max takes the first of equals
        if len(self.alive[slot]) == 1:
            raise RuntimeError("every slot has one survivor: nothing is left to drop")
        lowest = min(self.alive[slot], key=self.alpha[slot].tolist().__getitem__)
        self.alive[slot].remove(lowest)
        self.mask = self._masks()
        return slot, self.names[slot][lowest]

    def genotype(self) -> Genotype:
        """The discrete cell: the largest α of each slot with its γ. The bound stays part of it where its shape leans on it."""
        genes: dict[str, Gene] = {}
        for slot, alive in self.alive.items():
            alpha = self.alpha[slot].detach()
            name = self.names[slot][max(alive, key=lambda k: float(alpha[k]))]
            at = self._gamma_index[slot].get(name)
            value = None if at is None else float(self.gamma[slot].detach()[at])
            genes[slot] = Gene(name, None if value is None else max(-ops.GAMMA_MAX, min(ops.GAMMA_MAX, value)))
        found = Genotype(genes["u1"], genes["u2"], genes["b1"], genes["u3"], genes["u4"], genes["b2"])
        return replace(found, bound=self.limits.bound) if leans_on_bound(found) else found

    def state(self) -> dict[str, object]:
        """Everything needed to go on, as tensors and plain values."""
        return {"parameters": {k: v.detach().clone() for k, v in self.state_dict().items()}, "alive": dict(self.alive)}

    def load_state(self, state: Mapping[str, object]) -> None:
        parameters, alive = state["parameters"], state["alive"]
        assert isinstance(parameters, Mapping)
        assert isinstance(alive, Mapping)
        self.load_state_dict(parameters)
        self.alive = {slot: list(alive[slot]) for slot in self.alive}
        self.mask = self._masks()
