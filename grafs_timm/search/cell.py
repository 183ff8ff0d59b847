"""Compute the relaxed cell: six slots, each a Dirichlet mixture of the candidates that have survived.

Source: Strack, Safari, Hutter 2024 (arXiv 2408.06820), the search space, and DrNAS with an independent draw at every site and
forward pass:

    b(x) = B1(U1(x), U2(x))          f(x) = B2(U3(b), U4(x))
    slot s:  Σₖ w[s,k]·opₖ(inputs),  w[s] ~ Dir(ρ[s]),  ρ[s] = ELU(α[s]) + 1

``evaluate`` is the reference, on any tensor. The search calls ``tabulate``, on the knots of a grid for all sites at once; if
compiled, it masks dropped candidates instead of leaving them out, so that shapes stay the same and it is compiled once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..activations import ops
from ..activations.genotype import Gene, Genotype
from ..activations.similarity import leans_on_bound
from ..utils.compiled import fused
from .guard import trainable
from .table import SPECIAL, Grid

RHO_FLOOR = 1e-4  # below it a Dirichlet sample underflows and its gradient is NaN
_DROPPED = 1e-30  # concentration of a dropped candidate: its share of a sample is 0 in every precision

Weights = dict[str, Tensor]
Terms = Mapping[str, Sequence[tuple[int, ops.Op, int | None]]]  # slot -> (candidate, its operation, index of its γ)


def _relaxed(
    x: Tensor, weights: Mapping[str, Tensor], gamma: Mapping[str, Tensor], terms: Terms, limits: ops.Limits,
    masks: Mapping[str, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Compute the cell as a sum over ``terms``: x [n] or [sites, n] -> [sites, n]; ``masks`` [candidates] zero dropped ones."""

    def output(slot: str, term: tuple[int, ops.Op, int | None], inputs: tuple[Tensor, ...]) -> Tensor:
        k, op, at = term
        constant = None if at is None else gamma[slot][at].to(inputs[0].dtype)
        y = op.compute(*inputs, gamma=constant, limits=limits)
        return y if masks is None else torch.where(masks[slot][k], y, 0.0)  # a weight of 0 would give NaN at ±∞

    def mixture(slot: str, *inputs: Tensor) -> Tensor:
        weight = weights[slot].to(inputs[0].dtype)[:, [k for k, *_ in terms[slot]]]
        outputs = torch.stack([output(slot, term, inputs) for term in terms[slot]], dim=-2)
        # [candidates, n] where x is the same at every site and each candidate is computed once, else [sites, candidates, n]
        return weight @ outputs if outputs.dim() == 2 else (weight[:, None] @ outputs)[:, 0]

    return mixture("b2", mixture("u3", mixture("b1", mixture("u1", x), mixture("u2", x))), mixture("u4", x))


def _places(slot: str, names: Sequence[str]) -> dict[str, int]:
    """Return candidate -> index of its γ among the slot's constants, for those that have one."""
    return {name: at for at, name in enumerate(n for n in names if ops.OPS[ops.SLOTS[slot]][n].has_gamma)}


def _terms(names: Mapping[str, Sequence[str]], which: Mapping[str, Sequence[int]]) -> Terms:
    """Return the candidates ``which`` of each slot with their operations and the indices of their constants."""
    terms = {}
    for slot, of in names.items():
        rows = [ops.OPS[ops.SLOTS[slot]][name] for name in of]
        places = _places(slot, of)
        terms[slot] = [(k, rows[k], places.get(rows[k].name)) for k in which[slot]]
    return terms


@functools.cache
def _compiled(wide: bool, limits: ops.Limits) -> Callable[..., Tensor]:
    """Make (x [n], weights, γ, masks) -> [sites, n] over all candidates, compiled once for all such cells."""
    names = ops.candidates(wide)
    terms = _terms(names, {slot: range(len(of)) for slot, of in names.items()})

    def relaxed(x: Tensor, weights: Weights, gamma: Weights, masks: Weights) -> Tensor:
        return _relaxed(x, weights, gamma, terms, limits, masks)

    return fused(relaxed, "the cell's table")


def _detached(values: Mapping[str, Tensor]) -> Weights:
    return {slot: value.detach() for slot, value in values.items()}


class Cell(nn.Module):
    """Hold α, γ and the survivors of the six slots, shared by all sites of a network.

    Args:
        wide: Take the wider set of candidates.
        limits: Where operations saturate.

    Attributes:
        alpha: slot -> [candidates] float32, starting at 1e-6·U(0, 1), which favours none.
        gamma: slot -> its constants, one for each candidate that has one, starting at N(1, 0.25²) in unaries and 0 in mix.
        mask: [slots, most candidates of a slot] bool: the survivors.

    >>> cell = Cell()
    >>> {slot: len(names) for slot, names in cell.survivors.items()}
    {'u1': 23, 'u2': 23, 'b1': 9, 'u3': 23, 'u4': 23, 'b2': 9}
    >>> slot, dropped = cell.drop()
    >>> slot, len(cell.survivors["u1"])
    ('u1', 22)
    >>> cell.draw(sites=5)["b1"].shape
    torch.Size([5, 9])
    """

    mask: Tensor
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
        sizes = [len(names) for names in self.names.values()]
        firsts = [sum(sizes[:i]) for i in range(len(sizes))]
        # index of slot s's candidate k in the concatenation of all α; beyond a slot's last candidate any index will do
        index = [[first + min(k, size - 1) for k in range(max(sizes))] for first, size in zip(firsts, sizes, strict=True)]
        self.register_buffer("_flat_index", torch.tensor(index, device="cpu"), persistent=False)
        self.register_buffer("mask", torch.zeros(len(sizes), max(sizes), dtype=torch.bool, device="cpu"), persistent=False)
        self._keep({slot: range(len(names)) for slot, names in self.names.items()})

    def _keep(self, alive: Mapping[str, Sequence[int]]) -> None:
        """Set the survivors of each slot."""
        mask = torch.zeros(self.mask.shape, dtype=torch.bool, device="cpu")
        for row, slot in zip(mask, self.names, strict=True):
            row[list(alive[slot])] = True
        self.mask = mask.to(self.mask.device)
        self.__dict__.pop("alive", None)

    @functools.cached_property
    def alive(self) -> dict[str, list[int]]:
        """Return slot -> indices of its survivors, in table order."""
        return {slot: row.nonzero().flatten().tolist() for slot, row in zip(self.names, self.mask.cpu(), strict=True)}

    @property
    def survivors(self) -> dict[str, list[str]]:
        """Return slot -> names of its survivors, in table order."""
        return {slot: [self.names[slot][k] for k in alive] for slot, alive in self.alive.items()}

    @property
    def survivors_alpha(self) -> dict[str, list[float]]:
        """Return slot -> α of its survivors, in the order of `survivors`."""
        return {slot: self.alpha[slot].detach()[alive].tolist() for slot, alive in self.alive.items()}

    @property
    def drops_left(self) -> int:
        """Return how many candidates can be dropped until one is left in each slot."""
        return sum(len(alive) - 1 for alive in self.alive.values())

    @property
    def settled(self) -> bool:
        """Return whether nothing is left to learn: one survivor in every slot, none of them with a γ."""
        return not self.drops_left and not any(
            name in self._gamma_index[slot] for slot, names in self.survivors.items() for name in names
        )

    def draw(self, sites: int) -> Weights:
        """Draw the mixture weights of every site.

        All slots are one sample of static shape, since a Dirichlet over all candidates in which the dropped ones have almost no
        concentration, renormalised over the survivors, is the Dirichlet over the survivors.

        Args:
            sites: Number of independent draws.

        Returns:
            slot -> [sites, candidates] float32, 0 for dropped candidates, differentiable in α.
        """
        alpha = torch.cat(list(self.alpha.values())).float()[self._flat_index]
        with torch.autocast(alpha.device.type, enabled=False):
            concentration = (F.elu(alpha) + 1).clamp(min=RHO_FLOOR)
            alone = self.mask.sum(-1, keepdim=True) == 1  # weighs 1 whatever its α: a sample could underflow to 0/0
            concentration = torch.where(self.mask, torch.where(alone, 1.0, concentration), _DROPPED)
            sample = torch.distributions.Dirichlet(concentration, validate_args=False).rsample((sites,))
            kept = torch.where(self.mask, sample, 0.0)
            weights = kept / kept.sum(-1, keepdim=True)
        return self._by_slot(weights.detach() if self.settled else weights)

    def _by_slot(self, weights: Tensor) -> Weights:
        return {slot: weights[:, row, : len(names)] for row, (slot, names) in enumerate(self.names.items())}

    def choice(self, sites: int = 1) -> Weights:
        """Return the weights of the discrete cell as it would be chosen now: 1 on each slot's largest α, at every site."""
        alpha = torch.cat(list(self.alpha.values())).detach()[self._flat_index].masked_fill(~self.mask, -torch.inf)
        chosen = F.one_hot(alpha.argmax(-1), alpha.shape[-1]).to(alpha.dtype)
        return self._by_slot(chosen.expand(sites, -1, -1))

    def evaluate(self, x: Tensor, weights: Mapping[str, Tensor], gamma: Mapping[str, Tensor] | None = None) -> Tensor:
        """Compute the relaxed cell of every site, from the survivors only.

        Args:
            x: [n] (the same for every site) or [sites, n].
            weights: slot -> [sites, candidates], from `draw` or `choice`.
            gamma: Used instead of the cell's own constants; the inner level passes detached ones.

        Returns:
            [sites, n], float64 for a float64 x, else float32.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x if x.dtype == torch.float64 else x.float()
            return _relaxed(
                x, weights, dict(self.gamma) if gamma is None else gamma, _terms(self.names, self.alive), self.limits
            )

    def tabulate(self, grid: Grid, points: Tensor, weights: Mapping[str, Tensor], compiled: bool = False) -> Tensor:
        """Tabulate the relaxed cell of every site for `table.lookup`.

        Args:
            grid: The grid of the table.
            points: ``grid.points()`` on the cell's device.
            weights: slot -> [sites, candidates].
            compiled: Compute all candidates in a few kernels, with dropped ones masked, compiled once for the whole search
                (half a minute the first time on a machine); else the survivors one by one.

        Returns:
            [sites, intervals + 5, 2], differentiable in the weights and γ where gradients are enabled.
        """
        function = self._masked if compiled else self.evaluate
        still, fixed = _detached(weights), _detached(dict(self.gamma))
        special = points.new_tensor(SPECIAL)
        if not torch.is_grad_enabled() or self.settled:
            values = function(torch.cat([points, special]), still, fixed)
            return grid.rows(values[:, :-3], values[:, -3:])
        with torch.no_grad():  # 0 times an infinite slope at ±∞ would make the gradients of all points NaN
            beyond = function(special, still, fixed)
        return grid.rows(function(points, weights, dict(self.gamma)), beyond)

    def _masked(self, x: Tensor, weights: Mapping[str, Tensor], gamma: Mapping[str, Tensor]) -> Tensor:
        """Compute what ``evaluate`` does for float32 x [n], with the shapes of a cell without drops."""
        masks = dict(zip(self.names, self.mask, strict=True))
        with torch.autocast(x.device.type, enabled=False):
            return _compiled(self.wide, self.limits)(x, dict(weights), dict(gamma), masks)

    def drop(self, guard: bool = False) -> tuple[str, str]:
        """Drop the candidate with the lowest α from the slot with the most survivors, the first such slot.

        Args:
            guard: Once few cells are left, keep a trainable one (`guard.trainable`): drop the candidate of lowest α without
                which one is left, if there is any.

        Returns:
            (slot, name).

        Raises:
            RuntimeError: Every slot has one survivor.
        """
        alive = self.alive
        slot = max(alive, key=lambda s: len(alive[s]))
        if len(alive[slot]) == 1:
            raise RuntimeError("every slot has one survivor: nothing is left to drop")
        lowest = sorted(alive[slot], key=self.alpha[slot].tolist().__getitem__)
        dropped = self._spared(slot, lowest) if guard else lowest[0]
        self._keep(alive | {slot: [k for k in alive[slot] if k != dropped]})
        return slot, self.names[slot][dropped]

    def _spared(self, slot: str, order: Sequence[int]) -> int:
        """Return the first candidate in ``order`` without which a trainable cell is left, else the first of all."""
        fit = trainable(self.survivors, self._constants())
        if fit is None or not fit.any():
            return order[0]
        by_candidate = fit.movedim(list(self.names).index(slot), 0).flatten(1).any(1).tolist()
        fit_of = dict(zip(self.alive[slot], by_candidate, strict=True))
        return next(k for k in order if any(fit_of[other] for other in order if other != k))

    def _constants(self) -> dict[str, dict[str, float]]:
        """Return slot -> name -> γ, within ±``ops.GAMMA_MAX``."""
        values = {slot: gamma.detach().clamp(-ops.GAMMA_MAX, ops.GAMMA_MAX).tolist() for slot, gamma in self.gamma.items()}
        return {slot: {name: values[slot][at] for name, at in of.items()} for slot, of in self._gamma_index.items()}

    def genotype(self) -> Genotype:
        """Return the discrete cell: each slot's largest α with its γ, and the bound where the function depends on it."""
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
        """Return what `load_state` needs, as tensors and plain values."""
        return {"parameters": {k: v.detach().clone() for k, v in self.state_dict().items()}, "alive": dict(self.alive)}

    def load_state(self, state: Mapping[str, object]) -> None:
        """Load what `state` returned."""
        parameters, alive = state["parameters"], state["alive"]
        assert isinstance(parameters, Mapping)
        assert isinstance(alive, Mapping)
        self.load_state_dict(parameters)
        self._keep(alive)
