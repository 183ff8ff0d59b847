"""The relaxed cell: draws, survivors, evaluation against a slow and plain one written apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from grafs_timm.activations import ops
from grafs_timm.search.cell import RHO_FLOOR, Cell


def slow_cell(cell: Cell, x: float, weights: dict[str, Tensor], site: int) -> float:
    """The formula of the paper, number by number, from the NumPy references."""
    import numpy as np

    def slot(name: str, *inputs: float) -> float:
        total, gammas = 0.0, iter(cell.gamma[name].tolist())
        constants = {n: next(gammas) for n in cell.names[name] if ops.OPS[ops.SLOTS[name]][n].has_gamma}
        for weight, candidate in zip(weights[name][site].tolist(), cell.names[name], strict=True):  # a dropped one weighs 0
            op = ops.OPS[ops.SLOTS[name]][candidate]
            arrays = [np.asarray([value], dtype=np.float64) for value in inputs]
            total += weight * float(op.reference(*arrays, constants.get(candidate), cell.limits)[0])
        return total

    return slot("b2", slot("u3", slot("b1", slot("u1", x), slot("u2", x))), slot("u4", x))


def diminished(seed: int, drops: int) -> Cell:
    """A cell with α of its own after so many drops."""
    torch.manual_seed(seed)
    cell = Cell()
    with torch.no_grad():
        for alpha in cell.alpha.values():
            alpha.normal_()
    for _ in range(drops):
        cell.drop()
    return cell


@pytest.mark.parametrize("drops", [0, 60, 104])
def test_evaluate_is_the_formula_of_the_paper(drops: int) -> None:
    cell = diminished(3, drops)
    weights = cell.draw(3)
    x = torch.tensor([-7.0, -1.3, -0.2, 0.0, 0.4, 2.0, 9.0], dtype=torch.float64)
    y = cell.evaluate(x, weights)
    assert y.shape == (3, 7)
    for site in range(3):
        for i, value in enumerate(x.tolist()):
            assert y[site, i].item() == pytest.approx(slow_cell(cell, value, weights, site), rel=2e-6, abs=2e-6)


def test_every_site_has_its_own_draw_and_every_forward_a_new_one() -> None:
    cell = Cell()
    first, second = cell.draw(5), cell.draw(5)
    for slot in ops.SLOTS:
        assert first[slot].shape == (5, len(cell.names[slot]))
        assert torch.allclose(first[slot].sum(1), torch.ones(5), atol=1e-5)
        assert len({tuple(row) for row in torch.cat([first[slot], second[slot]]).tolist()}) == 10


def test_draws_have_the_mean_of_their_dirichlet() -> None:
    torch.manual_seed(0)
    cell = Cell()
    with torch.no_grad():
        cell.alpha["b1"].copy_(torch.linspace(-2, 2, 9))
    rho = torch.nn.functional.elu(cell.alpha["b1"].detach()) + 1
    mean = cell.draw(20_000)["b1"].mean(0)
    assert torch.allclose(mean, rho / rho.sum(), atol=5e-3)


def test_the_dropped_weigh_nothing_and_the_survivors_share_as_their_own_dirichlet() -> None:
    torch.manual_seed(0)
    cell = Cell()
    with torch.no_grad():
        cell.alpha["u2"].copy_(torch.linspace(-1, 3, 23))
    for _ in range(80):
        cell.drop()
    alive = cell.alive["u2"]
    rho = (torch.nn.functional.elu(cell.alpha["u2"].detach()) + 1)[alive]
    draws = cell.draw(40_000)["u2"]
    draws.square().sum().backward()
    assert (draws.count_nonzero(1) == len(alive)).all()
    assert cell.alpha["u2"].grad.count_nonzero() == len(alive)
    shares = draws.detach()[:, alive]
    total = rho.sum()
    mean, variance = rho / total, rho * (total - rho) / (total.square() * (total + 1))
    torch.testing.assert_close(shares.mean(0), mean, atol=5e-3, rtol=0)
    torch.testing.assert_close(shares.var(0), variance, atol=3e-3, rtol=0)


@pytest.mark.parametrize("drops", [0, 70, 104])
def test_the_masked_cell_is_the_cell_of_the_survivors(drops: int) -> None:
    from grafs_timm.search.cell import _relaxed, _terms

    torch.manual_seed(1)
    cell = Cell()
    for _ in range(drops):
        cell.drop()
    weights, x = cell.draw(3), torch.linspace(-9, 9, 301)
    everything = _terms(cell.names, {slot: range(len(names)) for slot, names in cell.names.items()})
    masks = dict(zip(cell.names, cell.mask, strict=True))

    def with_gradient(y: Tensor) -> tuple[Tensor, list[Tensor]]:
        parameters = list(cell.parameters())
        found = torch.autograd.grad(y.square().mean(), parameters, retain_graph=True, allow_unused=True)
        return y, [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    masked, gradients = with_gradient(_relaxed(x, weights, dict(cell.gamma), everything, cell.limits, masks))
    alone, expected = with_gradient(cell.evaluate(x, weights))
    torch.testing.assert_close(masked, alone, atol=1e-5, rtol=1e-5)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("drops", [0, 90, 104])
def test_the_table_is_the_cell_also_where_x_is_not_finite(drops: int) -> None:
    from grafs_timm.search.table import Grid, lookup

    grid, met = Grid(), 0
    for seed in range(6):
        cell = diminished(seed, drops)
        weights = cell.draw(2)
        x = torch.tensor([-torch.inf, torch.inf, torch.nan, 0.0])
        for detached in (False, True):
            with torch.set_grad_enabled(not detached):
                rows = cell.tabulate(grid, grid.points(), weights)
            exact = cell.evaluate(x, weights)
            for site in range(2):
                torch.testing.assert_close(lookup(x, rows[site], grid), exact[site], equal_nan=True)
            met += int(exact.isfinite().sum()) > 2
    assert drops < 100 or met, "no cell here was finite at any of the three"


def test_the_last_survivor_of_a_slot_has_all_of_it_however_low_its_alpha() -> None:
    cell = diminished(0, 100)
    with torch.no_grad():
        for alpha in cell.alpha.values():
            alpha.fill_(-1e6)
            alpha[0] = -5.0
    cell._keep({slot: alive[:1] for slot, alive in cell.alive.items()})
    for slot, weight in cell.draw(500).items():
        assert (weight[:, cell.alive[slot][0]] == 1).all()
        assert weight.sum() == 500


def test_a_settled_cell_has_nothing_to_learn() -> None:
    torch.manual_seed(0)
    cell = Cell()
    with torch.no_grad():  # the last to go is the one with the highest α: identity, and left
        for alpha in cell.alpha.values():
            alpha.copy_(-torch.arange(len(alpha)).float())
        cell.alpha["b1"][7] = cell.alpha["b2"][7] = 1.0
    while cell.drops_left:
        assert not cell.settled
        cell.drop()
    assert cell.settled
    assert not any(weight.requires_grad for weight in cell.draw(2).values())
    other = Cell()
    other.load_state(cell.state())
    assert other.settled


def test_a_draw_hands_its_gradient_to_alpha() -> None:
    torch.manual_seed(0)
    cell = Cell()
    x = torch.linspace(-3, 3, 64)
    cell.evaluate(x, cell.draw(4)).square().mean().backward()
    for slot in ops.SLOTS:
        assert cell.alpha[slot].grad.abs().sum() > 0
        assert cell.gamma[slot].grad.abs().sum() > 0


@pytest.mark.parametrize("alpha", [-1e6, -100.0, -9.0, 0.0, 50.0])
def test_extreme_alphas_give_finite_draws_and_gradients(alpha: float) -> None:
    torch.manual_seed(0)
    cell = Cell()
    with torch.no_grad():
        for parameter in cell.alpha.values():
            parameter.fill_(alpha)
            parameter[0] = 1.0
    for _ in range(20):
        weights = cell.draw(16)
        assert all(w.isfinite().all() for w in weights.values())
        cell.zero_grad()
        cell.evaluate(torch.linspace(-3, 3, 33), weights).mean().backward()
        assert all(p.grad.isfinite().all() for p in cell.parameters())
    assert RHO_FLOOR > 0


def test_drop_takes_the_fullest_slot_and_its_lowest_alpha() -> None:
    cell = Cell()
    with torch.no_grad():
        cell.alpha["u1"][4] = -1.0
        cell.alpha["u2"][0] = -1.0
    assert cell.drop() == ("u1", "cube")
    assert cell.drop() == ("u2", "identity")
    assert [cell.drop()[0] for _ in range(2)] == ["u3", "u4"]
    assert cell.drop()[0] == "u1"
    while cell.drops_left:
        cell.drop()
    with pytest.raises(RuntimeError, match="nothing is left"):
        cell.drop()


def test_one_survivor_each_is_the_discrete_function() -> None:
    torch.manual_seed(1)
    cell = Cell()
    while cell.drops_left:
        cell.drop()
    x = torch.linspace(-3, 3, 101, dtype=torch.float64)
    found = cell.genotype()
    drawn = cell.evaluate(x, cell.draw(2))
    assert torch.equal(drawn[0], drawn[1])
    limits = ops.SEARCH
    genes = found.genes()

    def op(slot: str, *inputs: Tensor) -> Tensor:
        gene = genes[slot]
        return ops.OPS[ops.SLOTS[slot]][gene.op].compute(*inputs, gamma=gene.gamma, limits=limits)

    by_hand = op("b2", op("u3", op("b1", op("u1", x), op("u2", x))), op("u4", x))
    assert torch.allclose(drawn[0], by_hand, atol=1e-6)


def test_choice_is_the_largest_alpha() -> None:
    cell = Cell()
    with torch.no_grad():
        cell.alpha["u3"][7] = 1.0
        cell.alpha["b2"][2] = 1.0
    weights = cell.choice(2)
    assert weights["u3"].argmax(1).tolist() == [7, 7]
    genes = cell.genotype().genes()
    assert (genes["u3"].op, genes["b2"].op) == ("scale", "mul")
    assert genes["u3"].gamma is not None


def test_state_goes_round() -> None:
    torch.manual_seed(5)
    cell, other = Cell(), Cell()
    for _ in range(30):
        cell.drop()
    other.load_state(cell.state())
    assert other.survivors == cell.survivors
    torch.manual_seed(9)
    one = cell.draw(2)
    torch.manual_seed(9)
    assert all(torch.equal(one[slot], weight) for slot, weight in other.draw(2).items())


def test_the_wide_set_has_its_own_size() -> None:
    assert sum(map(len, Cell(wide=True).names.values())) == 4 * 29 + 2 * 12
