"""The bilevel search: ActivationSearch goes around anyone's model and training loop.

Source: Strack, Safari, Hutter 2024. Each step, the outer level trains (α, γ) through the relaxed cell on one batch of the
architecture split, the inner level trains the weights on one batch of theirs, first order only. The two are kept clean:
the outer backward leaves no gradient on the weights and no trace in the BatchNorm statistics, the inner none on (α, γ).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..activations.activation import activation_class
from ..activations.formula import Genotype
from ..errors import RunError, SearchError
from ..models import hooks
from ..models.activation_table import Also
from ..models.surgery import replace_sites
from ..utils import parallel
from .cell import Cell
from .shrink import drop_schedule
from .sites import Board, Site
from .table import Grid

Loss = Callable[[], Tensor]  # runs the model on one batch


class _CompiledForward:
    """A model's forward, compiled; a copy of the model gets one of its own, as it would not from a compiled function."""

    def __init__(self, forward: Callable[..., Any], board: Board, settings: dict[str, Any]) -> None:
        self._forward, self._board, self._settings = forward, board, settings
        self.compiled = torch.compile(forward, **settings)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        model = getattr(self._forward, "__self__", None)
        if self._board.now is not None or not isinstance(model, nn.Module):
            return self.compiled(*inputs, **named)
        self._board.begin(model)  # called as model.forward
        try:
            return self.compiled(*inputs, **named)
        finally:
            self._board.end(model)

    def __deepcopy__(self, memo: dict[int, Any]) -> _CompiledForward:
        return _CompiledForward(copy.deepcopy(self._forward, memo), copy.deepcopy(self._board, memo), self._settings)


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
    lr, betas, weight_decay: Adam on (α, γ). ``usual``: the warm start's activation, by name or what makes it; None keeps what
    each place had.
    ``exact``: evaluate every candidate on the tensors themselves, for reference: ~60 plain steps a step.
    ``compiled``: compile the making of the tables; half a minute the first time on a machine, and it saves several
    hundredths of a step on a CPU (worth it from some thousand steps on), more on a GPU. Where nothing can be compiled, plain.
    The model itself may be compiled too, by ``compile_model``.
    ``max_skips``: so many non-finite outer steps in a row raise RunError. ``also``: as in `replace_activations`.
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
        usual: Any = None,
        wide: bool = False,
        grid: Grid | None = None,
        exact: bool = False,
        compiled: bool = False,
        max_skips: int = 20,
        also: Also = (),
    ) -> None:
        if not 0 <= warm_start < epochs:
            raise ValueError(f"warm_start is a part of the {epochs} epochs, got {warm_start}")
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.model, self.epochs, self.warm_start = model, epochs, warm_start
        self.cell = Cell(wide).to(device)
        self.schedule = drop_schedule(shrink_start, epochs, self.cell.drops_left)
        self._board = Board(self.cell, grid or Grid(), exact, compiled)
        self.report = replace_sites(model, self._make_site(_maker(usual)), by="a search site", also=also)
        self._board.sites = self.report.replaced
        self.optimizer = torch.optim.Adam(self.cell.parameters(), lr=lr, betas=betas, weight_decay=weight_decay)
        self.epoch, self.skipped, self._in_a_row, self.max_skips = 0, 0, 0, max_skips
        self._attach()

    def _attach(self) -> None:
        """Let a call of the model begin and end a pass."""
        self._hooks = [
            self.model.register_forward_pre_hook(self._board.begin),
            self.model.register_forward_hook(self._board.end, always_call=True),
        ]

    def __deepcopy__(self, memo: dict[int, Any]) -> ActivationSearch:
        """A search of its own, around a copy of the model."""
        board = self._board.of_its_own(memo)
        other = memo[id(self)] = ActivationSearch.__new__(ActivationSearch)
        other.__dict__.update(copy.deepcopy({k: v for k, v in self.__dict__.items() if k != "_hooks"}, memo))
        for site in other.model.modules():
            if isinstance(site, Site):
                site._board = (board,)
        for own in (other.model._forward_pre_hooks, other.model._forward_hooks):
            for number in [number for number, hook in own.items() if isinstance(getattr(hook, "__self__", None), Board)]:
                del own[number]
        other._attach()
        return other

    @property
    def epoch(self) -> int:
        """How many epochs have ended."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._board.warm = epoch < self.warm_start
        self._board.forget()

    def compile_model(self, **settings: Any) -> None:
        """``torch.compile`` the model's forward, one graph for each level and mode; draws and tables stay outside.

        ``settings`` go to ``torch.compile``. (``model.compile()`` works too, with more and smaller graphs.)
        """
        self.model.forward = _CompiledForward(self.model.forward, self._board, settings)

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
        """The outer level: forwards inside reach α and γ; weights get no gradient, BatchNorm uses and forgets its batch."""
        board = self._board
        with contextlib.ExitStack() as frozen:
            board.freeze = lambda module: _freeze(module, frozen)
            board.freeze(self.model)
            board.outer = True
            board.forget()
            try:
                yield
            finally:
                board.outer, board.freeze = False, None
                board.forget()

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
        calls = self._board.calls
        with self.architecture():
            for one in losses:
                self._board.forget()  # the last loss's backward has used up what it drew
                value = _scalar(one()) / len(losses)
                if value.requires_grad:
                    (scaler.scale(value) if scaler else value).backward()
                mean = value.detach() if mean is None else mean + value.detach()
        if mean is None:
            raise ValueError("an architecture step needs at least one loss, got an empty sequence")
        gradients = [p.grad for p in self.cell.parameters() if p.grad is not None]
        if not gradients and not self.cell.settled:  # settled: nothing is left to learn
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
        return f"the loss of an architecture step has no gradient for α and γ, so nothing would be learnt: {why}"

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

    def finish(self) -> Genotype:
        """Put the found function into the model in place of the sites, and let go of it: it is a model like any other then."""
        found = self.genotype()
        for parent in list(self.model.modules()):
            for name, child in parent._modules.items():
                if isinstance(child, Site):
                    parent._modules[name] = hooks.share(child, activation_class(found)().train(child.training))
                    hooks.let_go(child)
        for hook in self._hooks:
            hook.remove()
        if isinstance(forward := self.model.__dict__.get("forward"), _CompiledForward):
            self.model.forward = forward.compiled
        return found

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
            "cell": self.cell.state(), "plan": self._plan(), "optimizer": self.optimizer.state_dict(), "epoch": self.epoch,
            "skipped": self.skipped, "in_a_row": self._in_a_row,
            "outside": float(self._board.outside), "lookups": self._board.lookups,
        }  # fmt: skip

    def _plan(self) -> dict[str, int]:
        """What two searches have to have in common for one to go on where the other stopped."""
        return {
            "epochs": self.epochs, "warm_start": self.warm_start, "shrink_start": min(self.schedule),
            "candidates": sum(map(len, self.cell.names.values())), "sites": self._board.sites,
        }  # fmt: skip

    def _check(self, state: Mapping[str, Any]) -> None:
        """SearchError, with nothing changed, for the state of another search."""
        if missing := sorted({"cell", "optimizer", "epoch", "skipped", "in_a_row", "outside", "lookups"} - state.keys()):
            raise SearchError(f"this is no state of a search: {missing[0]!r} is missing; give what its state_dict() returned")
        own, plan = self._plan(), state.get("plan", {})  # states of before have none; the survivors tell then
        for key in own:
            if plan.get(key, own[key]) != own[key]:
                raise SearchError(
                    f"the state is of a search with {key} {plan[key]}, this one has {own[key]}; make the search as that one "
                    "was, ActivationSearch(model, ...) with the same numbers, and load it then"
                )
        alive, names = state["cell"]["alive"], self.cell.names
        left = sum(map(len, alive.values()))
        expected = own["candidates"] - sum(count for epoch, count in self.schedule.items() if epoch <= state["epoch"])
        if not 0 <= state["epoch"] <= self.epochs or alive.keys() != names.keys() or left != expected:
            raise SearchError(
                f"the state is of epoch {state['epoch']} with {left} candidates left; this search of {self.epochs} epochs has "
                f"{expected} by then: it is another search's. Make this one with the same epochs and shrink_start"
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a ``state_dict()``. SearchError, with nothing changed, where it is another search's."""
        self._check(state)
        self.cell.load_state(state["cell"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.skipped, self._in_a_row = state["epoch"], state["skipped"], state["in_a_row"]
        self._board.outside.fill_(state["outside"])
        self._board.lookups = state["lookups"]


def _freeze(module: nn.Module, frozen: contextlib.ExitStack) -> None:
    """Until ``frozen`` is closed the module's weights take no gradient and its BatchNorms use and forget their batch."""
    for weight in module.parameters():
        if weight.requires_grad:
            weight.requires_grad_(False)
            frozen.callback(weight.requires_grad_, True)
    for norm in module.modules():
        if getattr(norm, "track_running_stats", False):
            norm.track_running_stats = False  # type: ignore[assignment]  # batch statistics, running ones untouched
            frozen.callback(setattr, norm, "track_running_stats", True)


def _maker(usual: Any) -> Callable[[], nn.Module] | None:
    """What makes the warm start's activation. GrafsError for what does not."""
    if isinstance(usual, nn.Module):
        raise SearchError(f"usual={usual} is one module, and each place needs its own: give its class, {type(usual).__name__}")
    if usual is None or (callable(usual) and not isinstance(usual, Mapping)):
        return usual
    from ..zoo.lookup import resolve  # reads the zoo, which a search alone does not need

    return resolve(usual).layer


def _scalar(loss: Any) -> Tensor:
    """The loss that a function of the caller's returned. SearchError for anything but a floating scalar."""
    if isinstance(loss, Tensor) and loss.is_floating_point() and loss.numel() == 1:
        return loss.reshape(())
    if isinstance(loss, Tensor):
        what, advice = f"a tensor of shape {tuple(loss.shape)} and {loss.dtype}", "return its mean, .mean()"
    elif loss is None:
        what, advice = "None", "return the loss: lambda: loss_fn(model(x), y), or a return at the end of the function"
    else:
        what, advice = f"{type(loss).__name__}", "return the loss tensor itself, without .item(), float() or a dict around it"
    raise SearchError(f"the function of an architecture step returned {what}, not a scalar loss; {advice}")
