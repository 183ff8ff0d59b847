"""Decide what each site of a searched network computes in a forward pass.

A pass is one draw for all sites. A call of the model, or of a copy, is a pass. Sites that are called outside of one (by
``forward_features``, ``.forward`` or an inner module) share a pass until one of them is called again, which begins the next.
Gradient checkpointing, which computes sites again in backward, must use the tables of the original pass; it is found by a
random number, since checkpointing restores the random state.
"""

from __future__ import annotations

import contextlib
import copy
import enum
import functools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RunError
from .cell import Cell, Weights
from .table import Grid, lookup

_KEPT = 32  # passes that may be computed again in backward; each is a table of 33 kB a site


class Mode(enum.Enum):
    """What the sites compute."""

    DEFAULT = "the default activation, in the warm start"
    INNER = "a draw, without gradient for α and γ"
    OUTER = "a draw, with gradient for α and γ"
    CHOSEN = "the discrete cell"


class Site(nn.Module):
    """An activation of the network that is being searched.

    Args:
        usual: The default activation, for the warm start.
        index: Of the site in the network.
        board: Decides what the site computes.
        inplace: The default activation was allowed to overwrite its input, so the site is too.
    """

    is_search_site = True

    def __init__(self, usual: nn.Module, index: int, board: Board, inplace: bool) -> None:
        super().__init__()
        self.usual = usual
        self._inplace = inplace
        self._index, self._board = index, (board,)  # in a tuple, so that the cell is not a submodule of the model

    def forward(self, x: Tensor) -> Tensor:
        """Return what the site computes in the current pass, like x."""
        (board,) = self._board
        if board.found is not None:
            return board.found(x)
        now = board.now
        if now is None or not torch.compiler.is_compiling():
            now = board.join(self._index, self.training)
        return self.usual(x) if now.mode is Mode.DEFAULT else board.apply(now, x, self._index, self._inplace)


@dataclass(eq=False)
class Pass:
    """One forward pass: its mode, and the tables of all sites (if exact, their draws)."""

    mode: Mode
    grad: bool  # gradients were enabled when it began
    weights: Weights
    rows: tuple[Tensor, ...]
    owner: nn.Module | None = None  # the module whose call it is
    before: Pass | None = None  # the pass that it interrupts
    ended: bool = False
    met: set[int] = field(default_factory=set)  # sites that were called
    tokens: set[int] = field(default_factory=set)  # random numbers by which a recomputation finds it
    waiting: set[int] = field(default_factory=set)  # sites that backward may compute again and has not yet
    task: int = -1  # the backward that computed some of it again


class Board:
    """Hold what all sites of a model and of its copies share: the cell, the mode and the current pass.

    A copied model shares the board, so that it computes what the search has found by then.
    """

    def __init__(self, cell: Cell, grid: Grid, exact: bool, compiled: bool) -> None:
        self.cell, self.grid, self.exact, self.compiled = cell, grid, exact, compiled
        self.sites = 0
        self.mode = Mode.DEFAULT  # of passes in training mode, outside of the outer level
        self.freeze: Callable[[nn.Module], None] | None = None  # in the outer level: applied to every model that is called
        self.share = 1.0  # of the relaxed cell in a draw; the rest is the default activation, by its rows
        self.usual_rows: Tensor | None = None
        self.found: nn.Module | None = None  # the search is finished: what sites of copied models compute
        self.now: Pass | None = None
        self._loose: dict[tuple[Mode, bool], Pass] = {}
        self._earlier: deque[Pass] = deque()
        self._lost = False
        self.calls = 0  # of sites
        device = cell.alpha["u1"].device
        self.points = grid.points(device)
        self.outside = torch.zeros((), dtype=torch.float64, device=device)  # sum over tables: share of inputs beyond the grid
        self.lookups = 0  # number of tables

    def __deepcopy__(self, memo: dict[int, Any]) -> Board:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"now": None, "_loose": {}, "_earlier": deque(), "freeze": None}

    def of_its_own(self, memo: dict[int, Any]) -> Board:
        """Make a board with a copy of the cell, for a copy of the search."""
        other = memo[id(self)] = Board.__new__(Board)
        other.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        return other

    @contextlib.contextmanager
    def outer(self, freeze: Callable[[nn.Module], None]) -> Iterator[None]:
        """Make every pass one of the outer level, and ``freeze`` each model that is called."""
        self.freeze = freeze
        self.forget()
        try:
            yield
        finally:
            self.freeze = None
            self.forget()

    def finish(self, found: nn.Module) -> None:
        """Let the sites of copied models compute ``found`` from now on, and free the cell and all tables."""
        self.found, self.now = found, None
        self.forget()
        self._earlier.clear()
        self.usual_rows = None
        del self.cell, self.points

    # ---------------------------------------------------------------------------------------------- passes

    @torch.compiler.disable(recursive=False)  # a compiled model must not include the draws
    def begin(self, module: nn.Module, *_: Any) -> None:
        """Begin the pass of a call of the model or of a copy."""
        if self.found is not None:
            return
        if self.freeze is not None:
            self.freeze(module)
        drawn = self.draw(module.training)
        drawn.owner, drawn.before = module, self.now
        self.now = drawn

    @torch.compiler.disable(recursive=False)
    def end(self, module: nn.Module, *_: Any) -> None:
        """End the pass of that call."""
        each = self.now
        while each is not None and (each.owner is not module or each.ended):
            each = each.before
        if each is not None:
            each.ended = True
        while self.now is not None and self.now.ended:
            self.now = self.now.before

    def forget(self) -> None:
        """Let no further site join earlier passes; backward still finds them."""
        self._loose.clear()

    @torch.compiler.disable(recursive=False)
    def join(self, index: int, training: bool) -> Pass:
        """Return the pass that a call of site ``index`` belongs to."""
        self.calls += 1
        now = self.now
        task = torch._C._current_graph_task_id()
        if now is None and task != -1:
            now = self._found_again(index, task)
            if now is not None:
                return now
        token = _token() if _may_be_computed_again(now, training) else None
        if now is None:
            mode = self._mode(training)
            key = mode, mode is Mode.OUTER and torch.is_grad_enabled()
            now = self._loose.get(key)
            if now is None or index in now.met:
                now = self._loose[key] = self.draw(training) if token is None else self._draw_by(token, training)
        now.met.add(index)
        if token is not None:
            self._remember(now, index, token)
        return now

    def _mode(self, training: bool) -> Mode:
        if self.freeze is not None:
            return Mode.OUTER
        return Mode.CHOSEN if self.mode is Mode.INNER and not training else self.mode

    def draw(self, training: bool) -> Pass:
        """Draw a pass; only the outer level's has a gradient for α and γ."""
        mode = self._mode(training)
        made = functools.partial(Pass, mode, torch.is_grad_enabled())
        if mode is Mode.DEFAULT:
            return made({}, ())
        with torch.set_grad_enabled(mode is Mode.OUTER and torch.is_grad_enabled()):
            weights = self.cell.choice(self.sites) if mode is Mode.CHOSEN else self.cell.draw(self.sites)
            if self.exact:
                return made(weights, ())
            rows = self.cell.tabulate(self.grid, self.points, weights, self.compiled)
            if self.share < 1 and mode is not Mode.CHOSEN and self.usual_rows is not None:
                rows = torch.lerp(self.usual_rows, rows, self.share)
            self.lookups += self.sites
        return made(weights, rows.unbind(0))

    def _draw_by(self, seed: int, training: bool) -> Pass:
        """Draw inside of what is computed again, where the draw is not repeated: it must not change the random state."""
        at = self.points.device
        generator = torch.cuda.default_generators[at.index or 0] if at.type == "cuda" else torch.default_generator
        before = generator.get_state()
        try:
            generator.manual_seed(seed)
            return self.draw(training)
        finally:
            generator.set_state(before)

    # --------------------------------------------------------------------------------------- recomputation

    def _remember(self, now: Pass, index: int, token: int) -> None:
        now.tokens.add(token)
        now.waiting.add(index)
        if not any(each is now for each in self._earlier):
            self._earlier.append(now)
        if len(self._earlier) > _KEPT:
            self._lost |= bool(self._earlier.popleft().waiting)

    def _found_again(self, index: int, task: int) -> Pass | None:
        """Find the pass in which a site computed what backward computes again; None if no pass had to be remembered.

        Raises:
            RunError: It cannot be told, and the tables of another pass would be wrong.
        """
        if not any(index in each.met for each in self._earlier):
            return None
        token = _token()
        found = [each for each in self._earlier if token in each.tokens][-1:]
        if not found and not self._lost:  # checkpointing without preserve_rng_state: right if there is only one
            found = [each for each in self._earlier if index in each.waiting]
            found = found or [each for each in self._earlier if each.task == task and index in each.met]
        if len(found) != 1:
            raise RunError(
                "gradient checkpointing computes an activation of a search again and it cannot be told to which of several "
                f"forward passes it belongs; give checkpoint(..., preserve_rng_state=True), and at most {_KEPT} passes before "
                "a backward"
            )
        found[0].waiting.discard(index)
        found[0].task = task
        return found[0]

    # ------------------------------------------------------------------------------------------- functions

    def apply(self, now: Pass, x: Tensor, index: int, inplace: bool) -> Tensor:
        """Compute what site ``index`` does in the pass, like x."""
        if not self.exact:
            rows = now.rows[index]
            if rows.device != x.device:  # a copy of the model elsewhere
                return lookup(x, rows.to(x.device), self.grid, None, inplace)
            return lookup(x, rows, self.grid, self.outside, inplace)
        weights = {slot: w[index : index + 1] for slot, w in now.weights.items()}
        gamma = None if now.mode is Mode.OUTER else {slot: g.detach() for slot, g in self.cell.gamma.items()}
        return self.cell.evaluate(x.reshape(1, -1), weights, gamma).reshape(x.shape).to(x.dtype)


def _may_be_computed_again(now: Pass | None, training: bool) -> bool:
    """Check whether gradient checkpointing, of either kind, may call a site of the pass again in backward."""
    if not torch.is_grad_enabled():
        return training and (now is None or now.grad)
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def _token() -> int:
    return int(torch.empty((), dtype=torch.int64, device="cpu").random_())
