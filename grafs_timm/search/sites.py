"""The places of a searched network, and what each computes in a forward pass, in whatever way that was begun.

A pass is one draw for all sites. Calling the model, or a copy of it, begins one that ends with the call. Sites that are met
outside of one (somebody calls ``forward_features``, ``.forward`` or an inner module) share a pass until one of them is met
again, which begins the next. What gradient checkpointing computes again in backward takes the tables of its own pass, which
it finds by a random number: checkpointing puts the random state back to what it was.
"""

from __future__ import annotations

import copy
import functools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RunError
from .cell import Cell, Weights
from .table import Grid, lookup

_KEPT = 32  # passes that may be computed again in backward; each is a table of 33 kB a site


class Site(nn.Module):
    """One place of the network that used to hold its usual activation; the search says what it computes now."""

    is_search_site = True

    def __init__(self, usual: nn.Module, index: int, board: Board, inplace: bool) -> None:
        super().__init__()
        self.usual = usual
        self._inplace = inplace  # the place allowed its usual activation to overwrite the input, so the search may too
        self._index, self._board = index, (board,)  # in a tuple: the cell is the search's, not a part of the model

    def forward(self, x: Tensor) -> Tensor:
        (board,) = self._board
        now = board.now
        if now is None or not torch.compiler.is_compiling():
            now = board.join(self._index, self.training)
        return self.usual(x) if now.mode == "usual" else board.apply(now, x, self._index, self._inplace)


@dataclass(eq=False)
class Pass:
    """One forward pass: its mode (usual, inner, outer or chosen) and the tables of all sites (exact: their draws)."""

    mode: str
    grad: bool  # whether gradients were enabled when it began
    weights: Weights
    rows: tuple[Tensor, ...]
    owner: nn.Module | None = None  # whose call it is
    before: Pass | None = None  # the pass that it interrupts
    ended: bool = False
    met: set[int] = field(default_factory=set)
    tokens: set[int] = field(default_factory=set)  # random numbers by which a recomputation finds it
    waiting: set[int] = field(default_factory=set)  # sites that backward may compute again and has not yet
    task: int = -1  # the backward that computed some of it again


class Board:
    """What all sites of a model and of its copies share: the cell, and the pass that is under way.

    A copy of a model takes this very board, so that it computes what the search has come to by then.
    """

    def __init__(self, cell: Cell, grid: Grid, exact: bool, compiled: bool) -> None:
        self.cell, self.grid, self.exact, self.compiled = cell, grid, exact, compiled
        self.sites = 0
        self.warm = True  # the weights train with their usual activation
        self.outer = False
        self.freeze: Callable[[nn.Module], None] | None = None  # for what is called in the outer level
        self.now: Pass | None = None
        self._loose: dict[tuple[str, bool], Pass] = {}
        self._earlier: deque[Pass] = deque()
        self._lost = False
        self.calls = 0  # of sites
        device = cell.alpha["u1"].device
        self.points = grid.points(device)
        self.outside = torch.zeros((), dtype=torch.float64, device=device)  # share of inputs beyond the grid, summed over
        self.lookups = 0  # so many tables

    def __deepcopy__(self, memo: dict[int, Any]) -> Board:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"now": None, "_loose": {}, "_earlier": deque(), "freeze": None, "outer": False}

    def of_its_own(self, memo: dict[int, Any]) -> Board:
        """A board with a copy of the cell, for a copy of the search."""
        other = memo[id(self)] = Board.__new__(Board)
        other.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        return other

    # ---------------------------------------------------------------------------------------------- passes

    @torch.compiler.disable(recursive=False)  # the draws are not for a compiled model, though their table may be compiled
    def begin(self, module: nn.Module, *_: Any) -> None:
        """Begin a pass with a call of the model or of a copy."""
        if self.outer and self.freeze is not None:
            self.freeze(module)
        drawn = self.draw(module.training)
        drawn.owner, drawn.before = module, self.now
        self.now = drawn

    @torch.compiler.disable(recursive=False)
    def end(self, module: nn.Module, *_: Any) -> None:
        each = self.now
        while each is not None and (each.owner is not module or each.ended):
            each = each.before
        if each is not None:
            each.ended = True
        while self.now is not None and self.now.ended:
            self.now = self.now.before

    def forget(self) -> None:
        """Let no site join what has been drawn so far; backward still finds it."""
        self._loose.clear()

    @torch.compiler.disable(recursive=False)
    def join(self, index: int, training: bool) -> Pass:
        """The pass that a call of a site belongs to."""
        self.calls += 1
        now = self.now
        task = torch._C._current_graph_task_id()
        if now is None and task != -1:
            now = self._found_again(index, task)
            if now is not None:
                return now
        token = _token() if _may_be_computed_again(now, training) else None
        if now is None:
            key = self._mode(training), self.outer and torch.is_grad_enabled()
            now = self._loose.get(key)
            if now is None or index in now.met:
                now = self._loose[key] = self.draw(training) if token is None else self._draw_by(token, training)
        now.met.add(index)
        if token is not None:
            self._remember(now, index, token)
        return now

    def _mode(self, training: bool) -> str:
        if self.outer:
            return "outer"
        return "usual" if self.warm else "inner" if training else "chosen"

    def draw(self, training: bool) -> Pass:
        """Fresh draws for one pass; only the outer level's carry a gradient to α and γ."""
        mode = self._mode(training)
        made = functools.partial(Pass, mode, torch.is_grad_enabled())
        if mode == "usual":
            return made({}, ())
        with torch.set_grad_enabled(mode == "outer" and torch.is_grad_enabled()):
            weights = self.cell.choice(self.sites) if mode == "chosen" else self.cell.draw(self.sites)
            if self.exact:
                return made(weights, ())
            rows = self.cell.tabulate(self.grid, self.points, weights, self.compiled).unbind(0)
            self.lookups += self.sites
        return made(weights, rows)

    def _draw_by(self, seed: int, training: bool) -> Pass:
        """A draw inside of what is computed again, where it is not repeated: it may not move the random state."""
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
        """The pass in which a site computed what backward computes again; None where no pass had to be remembered.

        RunError where it cannot be told: nothing may be computed with the tables of another pass.
        """
        if not any(index in each.met for each in self._earlier):
            return None
        token = _token()
        found = [each for each in self._earlier if token in each.tokens][-1:]
        if not found and not self._lost:  # checkpointing without preserve_rng_state: right as long as there is one to choose
            found = [each for each in self._earlier if index in each.waiting]
            found = found or [each for each in self._earlier if each.task == task and index in each.met]
        if len(found) != 1:
            raise RunError(
                "gradient checkpointing computes an activation of a search again and it cannot be told in which of several "
                f"forward passes it stood; give checkpoint(..., preserve_rng_state=True), and at most {_KEPT} passes before "
                "a backward"
            )
        found[0].waiting.discard(index)
        found[0].task = task
        return found[0]

    # ------------------------------------------------------------------------------------------- functions

    def apply(self, now: Pass, x: Tensor, index: int, inplace: bool) -> Tensor:
        """What site ``index`` computes in the pass."""
        if not self.exact:
            rows = now.rows[index]
            if rows.device != x.device:  # a copy of the model elsewhere
                return lookup(x, rows.to(x.device), self.grid, None, inplace)
            return lookup(x, rows, self.grid, self.outside, inplace)
        weights = {slot: w[index : index + 1] for slot, w in now.weights.items()}
        gamma = None if now.mode == "outer" else {slot: g.detach() for slot, g in self.cell.gamma.items()}
        return self.cell.evaluate(x.reshape(1, -1), weights, gamma).reshape(x.shape).to(x.dtype)


def _may_be_computed_again(now: Pass | None, training: bool) -> bool:
    """Whether backward may call a site of the pass once more: in gradient checkpointing, in either of its kinds."""
    if not torch.is_grad_enabled():
        return training and (now is None or now.grad)
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def _token() -> int:
    return int(torch.empty((), dtype=torch.int64, device="cpu").random_())
