"""A search whose sites go over gradually from the default activation to the relaxed cell."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from grafs_timm.search.bilevel import ActivationSearch

X = torch.linspace(-3, 3, 64)[:, None]


def single(usual: nn.Module | None = None, **settings: int) -> tuple[nn.Module, ActivationSearch]:
    """A model that is one activation, and its search."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Identity(), usual or nn.GELU())
    return model, ActivationSearch(model, 10, **settings)


def test_the_share_of_the_cell_grows_in_equal_steps() -> None:
    _, search = single(warm_start=2, fade=3)
    shares = []
    for epoch in range(8):
        search.epoch = epoch
        shares.append(search._board.share)
    assert shares == pytest.approx([0.25, 0.25, 0.25, 0.5, 0.75, 1, 1, 1])
    _, plain = single(warm_start=2)
    assert plain._board.share == 1


@pytest.mark.parametrize("usual", [nn.ReLU(), nn.GELU(), nn.PReLU(), nn.LeakyReLU(0.2)], ids=lambda m: type(m).__name__)
def test_a_draw_is_the_default_activation_and_a_share_of_the_cell(usual: nn.Module) -> None:
    model, search = single(copy.deepcopy(usual), warm_start=1, fade=3)
    search.epoch = 1
    torch.manual_seed(1)
    mixed = model(X)
    search._board.share = 1.0
    torch.manual_seed(1)
    relaxed = model(X)
    assert torch.allclose(mixed, 0.75 * usual(X) + 0.25 * relaxed, atol=1e-4)


def test_alpha_has_the_gradient_of_its_share() -> None:
    gradients = []
    for share in (0.25, 1.0):
        model, search = single(warm_start=1, fade=3)
        search.epoch = 1
        search._board.share = share
        torch.manual_seed(1)
        with search.architecture():
            model(X).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in search.cell.parameters() if p.grad is not None]))
    assert torch.allclose(gradients[0], 0.25 * gradients[1], rtol=1e-3, atol=1e-5)


def test_eval_mode_shows_the_discrete_cell() -> None:
    model, search = single(warm_start=1, fade=3)
    search.epoch = 1
    model.eval()
    assert torch.allclose(model(X), search.genotype()(X), atol=1e-3)


def test_it_ends_before_the_search_does() -> None:
    model, search = single(warm_start=1, fade=3)
    for _ in range(10):
        search.architecture_step(lambda: model(X).square().mean())
        search.end_epoch()
    assert search._board.share == 1
    found = search.finish()
    assert torch.allclose(model(X), found(X))


def test_a_copy_and_a_state_go_on_with_it() -> None:
    _, search = single(warm_start=1, fade=3)
    for _ in range(2):
        search.end_epoch()
    other = copy.deepcopy(search)
    assert other._board.share == search._board.share
    _, loaded = single(warm_start=1, fade=3)
    loaded.load_state_dict(search.state_dict())
    assert loaded._board.share == search._board.share


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"fade": 10}, "fade is a part of the 9 epochs"), ({"fade": -1}, "got -1"), ({"fade": 2, "exact": True}, "exact=True")],
)
def test_what_does_not_fit_is_refused(settings: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        single(**settings)
