"""Search an activation by bilevel optimisation, around any model and training loop.

Source: Strack, Safari, Hutter 2024 (arXiv 2408.06820). In each step the outer level trains (α, γ) through the relaxed cell on
a batch of the architecture split, and the inner level trains the weights on a batch of theirs, first order only. The outer
backward leaves weights' gradients and BatchNorm statistics unchanged, the inner one has no gradient for (α, γ).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..activations.activation import activation_class
from ..activations.genotype import Genotype
from ..errors import RunError, SearchError
from ..models.activation_table import Also
from ..models.surgery import replace_sites
from ..utils import parallel
from .cell import Cell
from .shrink import drop_schedule
from .sites import Board, Mode, Site
from .table import Grid
from .wiring import CompiledForward, attach, detach, freeze, release, usual_rows

Loss = Callable[[], Tensor]  # runs the model on one batch


class ActivationSearch:
    """Search an activation for a model while it trains.

    The model's activations become sites. In training mode each site computes with a fresh draw in every forward pass; in eval
    mode with the discrete cell as it would be chosen now (during the warm start, with the default activation).

    Args:
        model: On the device that it will train on.
        epochs: Number of calls of `end_epoch`; an "epoch" may be any unit, such as iterations for a GPT.
        warm_start: Epochs in which the weights train with the default activation.
        shrink_start: The first epoch in which candidates are dropped.
        fade: Epochs after the warm start in which sites blend from the default activation to the relaxed cell, in equal steps
            on both levels; for pretrained weights. During the warm start the outer level uses the first step's blend.
        lr, betas, weight_decay: Of Adam on (α, γ).
        usual: The default activation of the warm start, as a name or class; None keeps the model's own.
        wide: Search the wider set of candidates.
        grid: Where the cell is tabulated.
        exact: Evaluate every candidate on the tensors themselves, as a reference; a step takes about 60 plain steps.
        compiled: Compile the tabulation, where a compiler is found. It takes half a minute the first time on a machine and
            saves a few hundredths of a step on a CPU (worth it for several thousand steps), more on a GPU. See
            `compile_model` for the model itself.
        max_skips: Raise RunError after so many non-finite outer steps in a row.
        guard: Keep a trainable cell through the last drops: not constant, straight, steep or saturated, and not at the
            search's bound (`search.guard`).
        train_on: Call `finish` after the last epoch; later calls of `architecture_step` and `end_epoch` do nothing, so that the
            search can be the first part of a longer loop.
        also: As in `replace_activations`.

    Raises:
        ValueError: warm_start, shrink_start and epochs do not fit each other.
        GrafsError: The model has no activation to search.
        SearchError: The model is being searched already.

    A training loop needs four more lines:

    >>> model = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> x = torch.linspace(-1, 1, 32)[:, None]
    >>> search = ActivationSearch(model, epochs=5)
    >>> for epoch in range(5):
    ...     _ = search.architecture_step(lambda: (model(x[1::2]) - x[1::2].abs()).square().mean())  # outer level: α, γ
    ...     loss = (model(x[::2]) - x[::2].abs()).square().mean()  # inner level: the loop as it was
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    ...     dropped = search.end_epoch()
    >>> sorted(search.genotype().genes())
    ['b1', 'b2', 'u1', 'u2', 'u3', 'u4']
    """

    def __init__(
        self,
        model: nn.Module,
        epochs: int,
        *,
        warm_start: int = 1,
        shrink_start: int = 2,
        fade: int = 0,
        lr: float = 6e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        weight_decay: float = 1e-3,
        usual: Any = None,
        wide: bool = False,
        grid: Grid | None = None,
        exact: bool = False,
        compiled: bool = False,
        max_skips: int = 20,
        guard: bool = False,
        train_on: bool = False,
        also: Also = (),
    ) -> None:
        if not 0 <= warm_start < epochs:
            raise ValueError(f"warm_start is a part of the {epochs} epochs, got {warm_start}")
        if not 0 <= fade <= epochs - warm_start:
            raise ValueError(f"fade is a part of the {epochs - warm_start} epochs after the warm start, got {fade}")
        if fade and exact:
            raise ValueError("fade mixes tables, and a search with exact=True has none")
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.model, self.epochs, self.warm_start, self.train_on = model, epochs, warm_start, train_on
        self.cell = Cell(wide).to(device)
        self.schedule = drop_schedule(shrink_start, epochs, self.cell.drops_left)
        self._board = Board(self.cell, grid or Grid(), exact, compiled)
        self.report = replace_sites(model, self._make_site(_maker(usual)), by="a search site", also=also)
        self._board.sites = self.report.replaced
        self.optimizer = torch.optim.Adam(self.cell.parameters(), lr=lr, betas=betas, weight_decay=weight_decay)
        self.guard, self.fade = guard, fade
        self._found: Genotype | None = None
        if fade:
            self._board.usual_rows = usual_rows(model, self._board)
        self.epoch, self.skipped, self._in_a_row, self.max_skips = 0, 0, 0, max_skips
        attach(self.model, self._board)

    def __deepcopy__(self, memo: dict[int, Any]) -> ActivationSearch:
        """Make an independent search around a copy of the model."""
        board = self._board.of_its_own(memo)
        other = memo[id(self)] = ActivationSearch.__new__(ActivationSearch)
        other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        for site in other.model.modules():
            if isinstance(site, Site):
                site._board = (board,)
        detach(other.model)
        attach(other.model, board)
        return other

    @property
    def epoch(self) -> int:
        """Return how many epochs have ended."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._board.mode = Mode.DEFAULT if epoch < self.warm_start else Mode.INNER
        self._board.share = min(1.0, max(1, epoch - self.warm_start + 1) / (self.fade + 1))
        self._board.forget()

    def compile_model(self, **settings: Any) -> None:
        """Compile the model's forward, one graph for each level and mode; draws and tables stay outside.

        ``model.compile()`` works too, with more and smaller graphs.

        Args:
            **settings: Passed to ``torch.compile``.
        """
        self.model.forward = CompiledForward(self.model.forward, self._board, settings)

    def _make_site(self, usual: Callable[[], nn.Module] | None) -> Callable[[nn.Module], nn.Module]:
        def make(old: nn.Module) -> Site:
            self._board.sites += 1
            inplace, kept = getattr(old, "inplace", False) is True, usual() if usual else old
            if inplace and hasattr(kept, "inplace"):
                kept.inplace = True  # type: ignore[assignment]
            return Site(kept, self._board.sites - 1, self._board, inplace)

        return make

    @contextlib.contextmanager
    def architecture(self) -> Iterator[None]:
        """Enter the outer level: α and γ get gradients, weights get none, and BatchNorm statistics are not updated."""
        _ = self.cell  # or raise that the search is finished
        with contextlib.ExitStack() as frozen:
            freeze(self.model, frozen)
            with self._board.outer(lambda module: freeze(module, frozen)):
                yield

    def architecture_step(self, loss: Loss | Sequence[Loss], scaler: torch.amp.GradScaler | None = None) -> Tensor:
        """Take one outer step on α and γ.

        A non-finite loss or gradient, of any rank, skips the step and is counted. In a process group the step is on the mean
        over the ranks, and the first step starts from rank 0's α and γ.

        Args:
            loss: Runs the model on a batch of the architecture split and returns a scalar loss. A sequence of such functions
                are micro-batches of equal size: one step on the mean of their gradients.
            scaler: For float16; another one than the weights'.

        Returns:
            The mean loss, detached; NaN after the search has finished by ``train_on``.

        Raises:
            SearchError: The loss is not a scalar or has no gradient for α and γ.
            RunError: ``max_skips`` steps in a row were skipped.
        """
        if self.train_on and self.finished:
            return torch.tensor(torch.nan, device="cpu")
        losses = [loss] if callable(loss) else loss
        if not self.optimizer.state:
            parallel.broadcast(self.cell)
        self.optimizer.zero_grad(set_to_none=True)
        mean: Tensor | None = None
        calls = self._board.calls
        with self.architecture():
            for one in losses:
                self._board.forget()  # the last loss's backward has freed its draws
                value = _scalar(one()) / len(losses)
                if value.requires_grad:
                    (scaler.scale(value) if scaler else value).backward()
                mean = value.detach() if mean is None else mean + value.detach()
        if mean is None:
            raise ValueError("an architecture step needs at least one loss, got an empty sequence")
        gradients = [p.grad for p in self.cell.parameters() if p.grad is not None]
        if not gradients and not self.cell.settled:
            raise SearchError(self._why_no_gradient(self._board.calls > calls))
        parallel.mean_([*gradients, mean])
        if gradients:
            self._step(gradients, mean, scaler)
        return mean

    def _why_no_gradient(self, called: bool) -> str:
        if not torch.is_grad_enabled():
            why = "gradients are switched off; call architecture_step outside of torch.no_grad() and torch.inference_mode()"
        elif not called:
            why = (
                "its function called no activation of the searched model; compute the loss with the model that the search was "
                "given, or with a copy made since"
            )
        else:
            why = (
                "the model's output was detached on the way to it; return the loss as a tensor, without .detach(), .item() or "
                "torch.no_grad() in between (reentrant gradient checkpointing detaches too: use_reentrant=False)"
            )
        return f"the loss of an architecture step has no gradient for α and γ, so the search would learn nothing: {why}"

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
        """End an epoch: drop the candidates that the schedule asks for.

        Returns:
            The dropped (slot, name) pairs.

        Raises:
            RunError: α, γ or survivors are not the same on every rank of a process group.
        """
        if self.train_on and self.finished:
            return []
        cell = self.cell
        self.epoch += 1
        dropped = [cell.drop(self.guard) for _ in range(self.schedule.get(self.epoch, 0))]
        parallel.check_same(cell.state(), f"after epoch {self.epoch}")
        if self.train_on and self.epoch == self.epochs:
            self.finish()
        return dropped

    def finish(self, *copies: nn.Module) -> Genotype:
        """Replace the sites by the found activation, of the largest α, and free the cell, its tables and its optimiser.

        The model is an ordinary one afterwards, in the same mode. Weights, BatchNorm statistics, hooks, optimiser, schedule, a
        compiled forward and wrappers such as DistributedDataParallel are kept, and weights saved before load into it. Other
        copies of the model compute the found activation through the sites they still have.

        Args:
            *copies: Copies of the model, such as an average of its weights, to replace the sites in too.

        Returns:
            The genotype.

        Raises:
            SearchError: The search is finished, has taken no architecture step, or is in the middle of one.

        >>> model = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> search = ActivationSearch(model, epochs=5)
        >>> _ = search.architecture_step(lambda: model(torch.ones(4, 1)).square().mean())
        >>> found = search.finish()
        >>> model[1].genotype == found
        True
        """
        if self._board.freeze is not None:
            raise SearchError("finish() within an architecture step; call it after the step has returned")
        if not self.cell.settled and not self.optimizer.state:
            raise SearchError(
                "finish() before any architecture step: no candidate is better than another yet; train first, or load a state"
            )
        self._found = self.genotype()
        layer = activation_class(self._found)
        for module in (self.model, *copies):
            release(module, layer)
        self._board.finish(layer())
        del self.cell, self.optimizer
        return self._found

    @property
    def finished(self) -> bool:
        """Return whether `finish` was called, by the caller or by ``train_on``."""
        return self._found is not None

    def __getattr__(self, name: str) -> Any:
        if name in ("cell", "optimizer") and self.__dict__.get("_found"):
            raise SearchError(
                f"the search is finished, and its {name} is freed; genotype() is what it found, and training goes on "
                "without the search"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def genotype(self) -> Genotype:
        """Return the discrete cell of the largest α, with its γ."""
        return self._found or self.cell.genotype()

    @property
    def outside(self) -> float:
        """Return the share of inputs that were outside the grid and extrapolated, averaged over sites and forward passes."""
        return float(self._board.outside) / max(1, self._board.lookups)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs, as tensors and plain values (loads with ``weights_only=True``)."""
        return {
            "cell": self.cell.state(), "plan": self._plan(), "optimizer": self.optimizer.state_dict(), "epoch": self.epoch,
            "skipped": self.skipped, "in_a_row": self._in_a_row,
            "outside": float(self._board.outside), "lookups": self._board.lookups,
        }  # fmt: skip

    def _plan(self) -> dict[str, int]:
        """Return what two searches must have in common for one to resume the other."""
        return {
            "epochs": self.epochs, "warm_start": self.warm_start, "fade": self.fade, "shrink_start": min(self.schedule),
            "candidates": sum(map(len, self.cell.names.values())), "sites": self._board.sites,
        }  # fmt: skip

    def _check(self, state: Mapping[str, Any]) -> None:
        """Raise SearchError for the state of another search."""
        own = self._plan()
        if missing := sorted({"cell", "optimizer", "epoch", "skipped", "in_a_row", "outside", "lookups"} - state.keys()):
            raise SearchError(f"not the state of a search: {missing[0]!r} is missing; give what its state_dict() returned")
        plan = state.get("plan", {})  # older states have none; their survivors are compared
        for key in own:
            if plan.get(key, own[key]) != own[key]:
                raise SearchError(
                    f"the state is of a search with {key} {plan[key]}, this one has {own[key]}; make the search by "
                    "ActivationSearch(model, ...) with the same numbers and load it then"
                )
        alive, names = state["cell"]["alive"], self.cell.names
        left = sum(map(len, alive.values()))
        expected = own["candidates"] - sum(count for epoch, count in self.schedule.items() if epoch <= state["epoch"])
        if not 0 <= state["epoch"] <= self.epochs or alive.keys() != names.keys() or left != expected:
            raise SearchError(
                f"the state is of epoch {state['epoch']} with {left} candidates left; this search of {self.epochs} epochs has "
                f"{expected} by then, so it is another search's. Make this one with the same epochs and shrink_start"
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a ``state_dict()``.

        Raises:
            SearchError: The state is another search's. This one is unchanged.
        """
        self._check(state)
        self.cell.load_state(state["cell"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.skipped, self._in_a_row = state["epoch"], state["skipped"], state["in_a_row"]
        self._board.outside.fill_(state["outside"])
        self._board.lookups = state["lookups"]


def _maker(usual: Any) -> Callable[[], nn.Module] | None:
    """Return what makes the default activation of the warm start. Raises GrafsError for anything else."""
    if isinstance(usual, nn.Module):
        raise SearchError(f"usual={usual} is one module, and each site needs its own: give its class, {type(usual).__name__}")
    if usual is None or (callable(usual) and not isinstance(usual, Mapping)):
        return usual
    from ..zoo.lookup import resolve  # reads the zoo

    return resolve(usual).layer


def _scalar(loss: Any) -> Tensor:
    """Check the loss that a caller's function returned. Raises SearchError for anything but a floating scalar."""
    if isinstance(loss, Tensor) and loss.is_floating_point() and loss.numel() == 1:
        return loss.reshape(())
    if isinstance(loss, Tensor):
        what, advice = f"a tensor of shape {tuple(loss.shape)} and {loss.dtype}", "return its mean, .mean()"
    elif loss is None:
        what, advice = "None", "return the loss: lambda: loss_fn(model(x), y), or a return at the end of the function"
    else:
        what, advice = f"{type(loss).__name__}", "return the loss tensor itself, without .item(), float() or a dict around it"
    raise SearchError(f"the function of an architecture step returned {what}, not a scalar loss; {advice}")
