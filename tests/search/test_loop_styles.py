"""Whatever way a loop runs the model, its search learns, or says why it does not."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from grafs_timm.errors import GrafsError
from grafs_timm.search.bilevel import ActivationSearch, Site

X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=3)


class Wrapper(nn.Module):
    """A task around a network, as segmenters, distillers and Lightning modules are."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def step(self, x: Tensor) -> Tensor:
        return self.inner(x).square().mean()


def loss(y: Tensor) -> Tensor:
    return y.square().mean()


def by_blocks(model: nn.Module) -> Tensor:
    x = model.maxpool(model.act1(model.bn1(model.conv1(X))))
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = stage(x)
    return loss(x)


# how the architecture's loss is computed, of the model that the search was given
STYLES: dict[str, Callable[[nn.Module], Tensor]] = {
    "a call": lambda model: loss(model(X)),
    "features and head": lambda model: loss(model.forward_head(model.forward_features(X))),
    "features alone": lambda model: loss(model.forward_features(X)),
    "forward": lambda model: loss(model.forward(X)),
    "intermediates": lambda model: loss(model.forward_intermediates(X, intermediates_only=True)[-1]),
    "layer by layer": by_blocks,
    "one block": lambda model: loss(model.layer1(torch.randn(2, 32, 8, 8))),
    "a copy": lambda model: loss(copy.deepcopy(model)(X)),
    "forward of a copy": lambda model: loss(copy.deepcopy(model).forward(X)),
    "an average": lambda model: loss(AveragedModel(model)(X)),
    "timm's average": lambda model: loss(ModelEmaV3(model).module.train()(X)),
    "data parallel": lambda model: loss(nn.DataParallel(model)(X)),
    "functional_call": lambda model: loss(torch.func.functional_call(model, dict(model.named_parameters()), (X,))),
    "two views": lambda model: F.mse_loss(model(X), model(X.flip(3))),
    "two views without a call": lambda model: F.mse_loss(model.forward(X), model.forward(X.flip(3))),
    "evaluation mode": lambda model: loss(model.eval()(X)),
    "frozen features": lambda model: loss(model.layer4(frozen(model))),
}


def frozen(model: nn.Module) -> Tensor:
    with torch.no_grad():
        x = model.maxpool(model.act1(model.bn1(model.conv1(X))))
        return model.layer3(model.layer2(model.layer1(x)))


@pytest.mark.parametrize("style", STYLES)
def test_the_search_learns_however_the_model_is_run(style: str) -> None:
    model = network()
    search = ActivationSearch(model, 10, warm_start=1)
    before = copy.deepcopy(search.cell.state_dict())
    for _ in range(2):
        search.architecture_step(lambda: STYLES[style](model))
        search.end_epoch()
    assert not any(torch.equal(before[name], now) for name, now in search.cell.state_dict().items() if name.startswith("alpha"))
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert search._board.now is None


@pytest.mark.parametrize(
    ("run", "given"),
    [
        (lambda task: loss(task.inner(X)), lambda task: task), (lambda task: task.step(X), lambda task: task),
        (lambda task: loss(task.inner.forward_features(X)), lambda task: task),
        (lambda task: loss(task(X)), lambda task: task.inner), (lambda task: task.step(X), lambda task: task.inner),
    ],
)  # fmt: skip
def test_the_search_may_hold_a_wrapper_or_what_is_in_it(
    run: Callable[[nn.Module], Tensor], given: Callable[[nn.Module], nn.Module]
) -> None:
    task = Wrapper()
    search = ActivationSearch(given(task), 10, warm_start=0)
    before = search.cell.alpha["u1"].detach().clone()
    search.architecture_step(lambda: run(task))
    assert not torch.equal(before, search.cell.alpha["u1"])
    task.train()
    assert not torch.equal(run(task), run(task))  # a new draw each time, in the inner level too
    assert not search.cell.alpha["u1"].grad.isnan().any()


@contextlib.contextmanager
def sites_seen(model: nn.Module) -> Iterator[list[Tensor]]:
    """The table that each call of a site takes."""
    board = next(module for module in model.modules() if isinstance(module, Site))._board[0]
    seen: list[Tensor] = []
    apply = board.apply
    board.apply = lambda now, x, index, inplace: seen.append(now.rows[index]) or apply(now, x, index, inplace)
    yield seen
    board.apply = apply


def test_every_site_is_drawn_anew_in_each_forward_without_a_call() -> None:
    model = network()
    search = ActivationSearch(model, 10, warm_start=0)
    with sites_seen(model) as seen:
        for _ in range(3):
            model.forward_head(model.forward_features(X))
    assert len({rows.data_ptr() for rows in seen}) == len(seen) == 3 * search.report.replaced


NOTHING: dict[str, tuple[Callable[[nn.Module], Tensor], str]] = {
    "no_grad in the function": (lambda model: loss(torch.no_grad()(model)(X)), "detached"),
    "inference mode in the function": (lambda model: loss(torch.inference_mode()(model)(X)), "detached"),
    "a detached output": (lambda model: loss(model(X).detach()), "detached"),
    "a number made a tensor": (lambda model: torch.tensor(loss(model(X)).item()), "detached"),
    "another model": (lambda model: loss(network()(X)), "no activation of the searched model"),
    "a copy from before": (lambda model: loss(model.before(X)), "no activation of the searched model"),
    "a constant": (lambda model: torch.ones(()), "no activation of the searched model"),
    "what a head outside learns": (lambda model: loss(nn.Linear(3, 1)(model(X).detach())), "detached"),
}


@pytest.mark.parametrize("style", NOTHING)
def test_a_loss_that_teaches_nothing_is_an_error_that_says_why(style: str) -> None:
    model, (run, why) = network(), NOTHING[style]
    before = copy.deepcopy(model)
    search = ActivationSearch(model, 10)
    model.__dict__["before"] = before
    cell = copy.deepcopy(search.cell.state_dict())
    with pytest.raises(GrafsError, match=why):
        search.architecture_step(partial(run, model))
    assert all(torch.equal(cell[name], now) for name, now in search.cell.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert model.bn1.track_running_stats


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode, lambda: torch.set_grad_enabled(False)])
def test_a_step_with_gradients_switched_off_is_an_error_that_says_so(
    off: Callable[[], contextlib.AbstractContextManager],
) -> None:
    model = network()
    search = ActivationSearch(model, 10)
    with off(), pytest.raises(GrafsError, match="gradients are switched off"):
        search.architecture_step(lambda: loss(model(X)))
