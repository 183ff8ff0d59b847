"""The bilevel search: ActivationSearch goes around anyone's model and training loop.

Source: Strack, Safari, Hutter 2024. Each step, the outer level trains (α, γ) through the relaxed cell on one batch of the
architecture split, the inner level trains the weights on one batch of theirs, first order only. The two are kept clean:
the outer backward leaves no gradient on the weights and no trace in the BatchNorm statistics, the inner none on (α, γ).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import parallel
from .cell import Cell, Weights
from .errors import RunError
from .formula import Genotype
from .shrink import drop_schedule
from .surgery import replace_sites
from .table import Grid, lookup

Loss = Callable[[], Tensor]  # runs the model on one batch


class Site(nn.Module):
    """One place of the network that used to hold its usual activation; the search says what it computes now."""

    def __init__(self, usual: nn.Module, index: int, board: _Board, inplace: bool) -> None:
        super().__init__()
        self.usual = usual
        self._inplace = inplace  # the place allowed its usual activation to overwrite the input, so the search may too
        self._index, self._board = index, (board,)  # in a tuple: the cell is the search's, not a part of the model

    def forward(self, x: Tensor) -> Tensor:
        (board,) = self._board
        return self.usual(x) if board.mode == "usual" else board.apply(x, self._index, self._inplace)


class _Board:
    """What all sites share: the mode of this forward pass and its tables (or, exact, its draws)."""

    def __init__(self, cell: Cell, grid: Grid, exact: bool, compiled: bool) -> None:
        self.cell, self.grid, self.exact, self.compiled = cell, grid, exact, compiled
        self.mode = "usual"  # usual | inner | outer | chosen
        self.sites = 0
        self.rows: tuple[Tensor, ...] = ()
        self.weights: Weights = {}
        device = cell.alpha["u1"].device
        self.points = grid.points(device)
        self.outside = torch.zeros((), dtype=torch.float64, device=device)  # share of inputs beyond the grid, summed over
        self.lookups = 0  # so many tables

    def draw(self) -> None:
        """Fresh draws for one forward pass; only the outer level's carry a gradient to α and γ."""
        if self.mode == "usual":
            return
        with torch.set_grad_enabled(self.mode == "outer" and torch.is_grad_enabled()):
            self.weights = self.cell.choice(self.sites) if self.mode == "chosen" else self.cell.draw(self.sites)
            if self.exact:
                return
            self.rows = self.cell.tabulate(self.grid, self.points, self.weights, self.compiled).unbind(0)
            self.lookups += self.sites

    def apply(self, x: Tensor, index: int, inplace: bool) -> Tensor:
        if not self.exact:
            return lookup(x, self.rows[index], self.grid, self.outside, inplace)
        weights = {slot: w[index : index + 1] for slot, w in self.weights.items()}
        gamma = None if self.mode == "outer" else {slot: g.detach() for slot, g in self.cell.gamma.items()}
        return self.cell.evaluate(x.reshape(1, -1), weights, gamma).reshape(x.shape).to(x.dtype)


class ActivationSearch:
    """Search an activation for ``model`` while it trains. A training loop needs four lines more:

        search = ActivationSearch(model, epochs=50)                       # the model's activations become sites
        for epoch in range(50):
            for (x, y), (x_arch, y_arch) in zip(train_loader, architecture_loader):
                search.architecture_step(lambda: loss_fn(model(x_arch), y_arch))   # outer: α and γ
                loss = loss_fn(model(x), y)                                        # inner: the loop as it was
                optimizer.zero_grad(); loss.backward(); optimizer.step()
            search.end_epoch()                                            # warm start, drops
        genotype = search.genotype()

    In training mode the model computes with a fresh draw at every site and forward pass; in eval mode with the discrete cell
    that would be chosen now (the usual activation during the warm start).

    model: on the device it will train on. epochs, warm_start, shrink_start: in calls of ``end_epoch`` (an "epoch" may be any
    unit, iterations for a GPT).
    lr, betas, weight_decay: Adam on (α, γ). ``usual``: makes the warm start's activation; None keeps what each place had.
    ``exact``: evaluate every candidate on the tensors themselves, for reference: ~60 plain steps a step.
    ``compiled``: compile the making of the tables; half a minute the first time on a machine, and it saves several
    hundredths of a step on a CPU (worth it from some thousand steps on), more on a GPU. Where nothing can be compiled, plain.
    The model itself may be compiled too, by ``compile_model``.
    ``max_skips``: so many non-finite outer steps in a row raise RunError.
    """

    def __init__(
        self,
        model: nn.Module,
        epochs: int,
        *,
        warm_start: int = 1,
        shrink_start: int = 2,
        lr: float = 6e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        weight_decay: float = 1e-3,
        usual: Callable[[], nn.Module] | None = None,
        wide: bool = False,
        grid: Grid | None = None,
        exact: bool = False,
        compiled: bool = False,
        max_skips: int = 20,
    ) -> None:
        if not 0 <= warm_start < epochs:
            raise ValueError(f"warm_start is a part of the {epochs} epochs, got {warm_start}")
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.model, self.epochs, self.warm_start = model, epochs, warm_start
        self.cell = Cell(wide).to(device)
        self.schedule = drop_schedule(shrink_start, epochs, self.cell.drops_left)
        self._board = _Board(self.cell, grid or Grid(), exact, compiled)
        self.report = replace_sites(model, self._make_site(usual), by="a search site")
        self._board.sites = self.report.replaced
        self.optimizer = torch.optim.Adam(self.cell.parameters(), lr=lr, betas=betas, weight_decay=weight_decay)
        self.epoch, self.skipped, self._in_a_row, self.max_skips = 0, 0, 0, max_skips
        self._in_outer = False
        model.register_forward_pre_hook(self._before_forward)

    def compile_model(self, **settings: Any) -> None:
        """``torch.compile`` the model's forward, one graph for each level and mode; draws and tables stay outside.

        ``settings`` go to ``torch.compile``. (``model.compile()`` works too, with more and smaller graphs.)
        """
        self.model.forward = torch.compile(self.model.forward, **settings)

    def _make_site(self, usual: Callable[[], nn.Module] | None) -> Callable[[nn.Module], nn.Module]:
        def make(old: nn.Module) -> Site:
            self._board.sites += 1
            inplace, kept = getattr(old, "inplace", False) is True, usual() if usual else old
            if inplace and hasattr(kept, "inplace"):
                kept.inplace = True  # type: ignore[assignment]
            return Site(kept, self._board.sites - 1, self._board, inplace)

        return make

    @torch.compiler.disable(recursive=False)  # the draws are not for a compiled model, though their table may be compiled
    def _before_forward(self, *_: Any) -> None:
        warm = self.epoch < self.warm_start
        if self._in_outer:
            self._board.mode = "outer"
        elif self.model.training:
            self._board.mode = "usual" if warm else "inner"
        else:
            self._board.mode = "usual" if warm else "chosen"
        self._board.draw()

    @contextlib.contextmanager
    def architecture(self) -> Iterator[None]:
        """The outer level: forwards inside reach α and γ; weights get no gradient, BatchNorm uses and forgets its batch."""
        weights = [p for p in self.model.parameters() if p.requires_grad]
        norms = [m for m in self.model.modules() if getattr(m, "track_running_stats", False)]
        for p in weights:
            p.requires_grad_(False)
        for m in norms:
            m.track_running_stats = False  # type: ignore[assignment]  # batch statistics, running ones untouched
        self._in_outer = True
        try:
            yield
        finally:
            self._in_outer = False
            for p in weights:
                p.requires_grad_(True)
            for m in norms:
                m.track_running_stats = True  # type: ignore[assignment]

    def architecture_step(self, loss: Loss | Sequence[Loss], scaler: torch.amp.GradScaler | None = None) -> Tensor:
        """One outer step: ``loss()`` runs the model on a batch of the architecture split and returns its scalar loss.

        Several of them, in a sequence, are micro-batches of equal size: one step on the mean of their gradients. In a process
        group (``parallel``) it is the mean over the ranks as well, and the first step begins with rank 0's α and γ.
        ``scaler``: for float16, one of its own (not the weights'). Returns the mean loss, detached. A non-finite loss or
        gradient, of any rank, leaves α and γ as they are and is counted; ``max_skips`` in a row raise RunError.
        """
        losses = [loss] if callable(loss) else loss
        if not self.optimizer.state:
            parallel.broadcast(self.cell)
        self.optimizer.zero_grad(set_to_none=True)
        mean: Tensor | None = None
        with self.architecture():
            for one in losses:
                value = one() / len(losses)
                # one survivor in every slot and none of them has a γ: nothing is left to learn
                if value.requires_grad:
                    (scaler.scale(value) if scaler else value).backward()
                mean = value.detach() if mean is None else mean + value.detach()
        if mean is None:
            raise ValueError("an architecture step needs at least one loss, got an empty sequence")
        gradients = [p.grad for p in self.cell.parameters() if p.grad is not None]
        parallel.mean_([*gradients, mean])
        if gradients:
            self._step(gradients, mean, scaler)
        return mean

    def _step(self, gradients: list[Tensor], loss: Tensor, scaler: torch.amp.GradScaler | None) -> None:
        if scaler:
            scaler.unscale_(self.optimizer)
        finite = bool(torch.isfinite(torch.stack([loss.float(), *(g.sum() for g in gradients)])).all())
        if finite:
            self.optimizer.step()
        if scaler:
            scaler.update() if finite else scaler.update(scaler.get_scale() * scaler.get_backoff_factor())
        self._in_a_row = 0 if finite else self._in_a_row + 1
        self.skipped += not finite
        if self._in_a_row >= self.max_skips:
            raise RunError(
                f"{self._in_a_row} architecture steps in a row had a non-finite loss or gradient (last loss {loss.item()}) "
                f"in epoch {self.epoch}; lower the learning rates or train in float32"
            )

    def end_epoch(self) -> list[tuple[str, str]]:
        """Count one epoch and drop what the schedule asks for. Returns the dropped (slot, name) pairs.

        In a process group α, γ and survivors are compared: RunError where they are not the same bits on every rank.
        """
        self.epoch += 1
        dropped = [self.cell.drop() for _ in range(self.schedule.get(self.epoch, 0))]
        parallel.check_same(self.cell.state(), f"after epoch {self.epoch}")
        return dropped

    def genotype(self) -> Genotype:
        """The discrete cell of the largest α, with its γ."""
        return self.cell.genotype()

    @property
    def outside(self) -> float:
        """The share of inputs that lay outside the grid and were extrapolated, the mean of all sites and forward passes."""
        return float(self._board.outside) / max(1, self._board.lookups)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, as tensors and plain values (loads with ``weights_only=True``)."""
        return {
            "cell": self.cell.state(), "optimizer": self.optimizer.state_dict(), "epoch": self.epoch,
            "skipped": self.skipped, "in_a_row": self._in_a_row,
            "outside": float(self._board.outside), "lookups": self._board.lookups,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.cell.load_state(state["cell"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.skipped, self._in_a_row = state["epoch"], state["skipped"], state["in_a_row"]
        self._board.outside.fill_(state["outside"])
        self._board.lookups = state["lookups"]
