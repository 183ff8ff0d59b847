"""The relaxed cell: six slots, each a Dirichlet mixture of the candidates that are still alive.

Source: Strack, Safari, Hutter 2024, the search space, and DrNAS with an independent draw at every site and forward pass:

    b(x) = B1(U1(x), U2(x))          f(x) = B2(U3(b), U4(x))
    slot s:  Σₖ w[s,k]·opₖ(inputs),  w[s] ~ Dir(ρ[s]),  ρ[s] = ELU(α[s]) + 1

``evaluate`` is the reference, on whatever tensor it is given; the search calls it on the knots of a grid only (table.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import ops
from .formula import Gene, Genotype, leans_on_bound

RHO_FLOOR = 1e-4  # below it a Dirichlet sample underflows and its gradient is NaN

Weights = dict[str, Tensor]


class Cell(nn.Module):
    """α, γ and the survivors of the six slots, shared by all sites of a network.

    ``alpha[slot]``: [candidates] float32, starts at 1e-6·U(0, 1) so that none is favoured. ``gamma[slot]``: the slot's own
    learnable constants, one for each candidate that has one, starting N(1, 0.25²) in unaries and 0 in the mix.
    ``alive[slot]``: indices of the survivors, in table order.
    """

    def __init__(self, wide: bool = False, limits: ops.Limits = ops.SEARCH) -> None:
        super().__init__()
        self.limits = limits
        self.names = ops.candidates(wide)
        self.alpha, self.gamma = nn.ParameterDict(), nn.ParameterDict()
        self._gamma_index: dict[str, dict[str, int]] = {}
        for slot, names in self.names.items():
            self.alpha[slot] = nn.Parameter(1e-6 * torch.rand(len(names)))
            rows = [ops.OPS[ops.SLOTS[slot]][name] for name in names]
            starts = [(op.name, op.gamma_init) for op in rows if op.gamma_init]
            self._gamma_index[slot] = {name: i for i, (name, _) in enumerate(starts)}
            values = [mean + spread * torch.randn(()) for _, (mean, spread) in starts]
            self.gamma[slot] = nn.Parameter(torch.stack(values))
        self.alive: dict[str, list[int]] = {slot: list(range(len(names))) for slot, names in self.names.items()}

    @property
    def survivors(self) -> dict[str, list[str]]:
        """Names of the candidates still alive, by slot."""
        return {slot: [self.names[slot][k] for k in alive] for slot, alive in self.alive.items()}

    @property
    def drops_left(self) -> int:
        return sum(len(alive) - 1 for alive in self.alive.values())

    def draw(self, sites: int) -> Weights:
        """One independent draw per site: slot -> [sites, survivors] float32, differentiable in α (pathwise)."""
        weights = {}
        with torch.autocast(self.alpha["u1"].device.type, enabled=False):
            for slot, alive in self.alive.items():
                if len(alive) == 1:
                    weights[slot] = self.alpha[slot].new_ones(sites, 1)
                    continue
                concentration = (F.elu(self.alpha[slot][alive].float()) + 1).clamp(min=RHO_FLOOR)
                weights[slot] = torch.distributions.Dirichlet(concentration, validate_args=False).rsample((sites,))
        return weights

    def choice(self, sites: int = 1) -> Weights:
        """The weights of the discrete cell that would be chosen now: 1 on each slot's largest α, at every site."""
        weights = {}
        for slot, alive in self.alive.items():
            best = self.alpha[slot].detach()[alive].argmax()
            weights[slot] = F.one_hot(best, len(alive)).to(self.alpha[slot]).expand(sites, -1)
        return weights

    def evaluate(self, x: Tensor, weights: Mapping[str, Tensor], gamma: Mapping[str, Tensor] | None = None) -> Tensor:
        """The relaxed cell on x, [n] (the same for every site) or [sites, n] -> [sites, n], in float32 or x's float64.

        ``gamma`` stands in for the cell's own constants (the inner level hands in detached ones).
        """
        constants = self.gamma if gamma is None else gamma

        def slot(name: str, *inputs: Tensor) -> Tensor:
            return self._mixture(name, weights[name], constants[name], *inputs)

        with torch.autocast(x.device.type, enabled=False):
            x = x if x.dtype == torch.float64 else x.float()
            return slot("b2", slot("u3", slot("b1", slot("u1", x), slot("u2", x))), slot("u4", x))

    def _mixture(self, slot: str, weight: Tensor, gamma: Tensor, *inputs: Tensor) -> Tensor:
        table, index = ops.OPS[ops.SLOTS[slot]], self._gamma_index[slot]
        weight, gamma = weight.to(inputs[0].dtype), gamma.to(inputs[0].dtype)
        outputs = []
        for k in self.alive[slot]:
            name = self.names[slot][k]
            constant = gamma[index[name]] if name in index else None
            outputs.append(table[name].compute(*inputs, gamma=constant, limits=self.limits))
        mixture = torch.stack(outputs)
        if mixture.dim() == 2:
            return weight @ mixture
        return torch.einsum("sk,ksn->sn", weight, mixture)

    def drop(self) -> tuple[str, str]:
        """Remove one candidate: of the slot with the most survivors (the first in slot order of several) the lowest α.

        Returns (slot, name). Raises RuntimeError when every slot has one survivor.
        """
        slot = max(self.alive, key=lambda s: len(self.alive[s]))  # max takes the first of equals
        if len(self.alive[slot]) == 1:
            raise RuntimeError("every slot has one survivor: nothing is left to drop")
        lowest = min(self.alive[slot], key=self.alpha[slot].tolist().__getitem__)
        self.alive[slot].remove(lowest)
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
