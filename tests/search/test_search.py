"""The bilevel search: levels that leave each other alone, modes, half precision, skips, and a known answer."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grafs_timm.errors import GrafsError, RunError
from grafs_timm.models import small_models as models  # noqa: F401  registers cifar_resnet20
from grafs_timm.search.bilevel import ActivationSearch, Site


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(128, 4)
    )


def batch(n: int = 16) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3, 8, 8), torch.randint(4, (n,))


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_outer_step_leaves_the_weights_and_batchnorm_alone() -> None:
    model = small_net()
    search = ActivationSearch(model, 10, warm_start=0)
    x, y = batch()
    before, cell = snapshot(model), snapshot(search.cell)
    search.architecture_step(lambda: F.cross_entropy(model(x), y))
    assert same(before, snapshot(model))  # weights, running mean and variance, num_batches_tracked
    assert all(p.grad is None for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert model[1].track_running_stats
    after = snapshot(search.cell)
    assert not any(torch.equal(cell[k], after[k]) for k in cell)


def test_the_outer_step_uses_the_statistics_of_its_batch() -> None:
    model = small_net()
    search = ActivationSearch(model, 10, warm_start=0)
    seen = []
    model[1].register_forward_hook(lambda module, args, out: seen.append(out.detach()))
    x, y = batch()
    search.architecture_step(lambda: F.cross_entropy(model(5 * x + 3), y))
    assert seen[0].mean((0, 2, 3)).abs().max() < 1e-4
    assert (seen[0].var((0, 2, 3)) - 1).abs().max() < 1e-2


@pytest.mark.parametrize("exact", [False, True], ids=["table", "exact"])
def test_the_inner_step_leaves_alpha_and_gamma_alone(exact: bool) -> None:
    model = small_net()
    search = ActivationSearch(model, 10, warm_start=0, exact=exact)
    x, y = batch()
    cell = snapshot(search.cell)
    F.cross_entropy(model(x), y).backward()
    assert all(p.grad is None for p in search.cell.parameters())
    assert all(p.grad is not None for p in model.parameters())
    assert same(cell, snapshot(search.cell))
    assert int(model[1].num_batches_tracked) == 1


def test_outer_gradients_of_table_and_exact_agree() -> None:
    grads = []
    for exact in (False, True):
        model = small_net()
        torch.manual_seed(1)
        search = ActivationSearch(model, 10, warm_start=0, exact=exact)
        x, y = batch()
        torch.manual_seed(2)
        search.optimizer.zero_grad()
        with search.architecture():
            F.cross_entropy(model(x), y).backward()
        grads.append(torch.cat([p.grad for p in search.cell.parameters()]))
    assert float((grads[0] - grads[1]).norm() / grads[1].norm()) < 2e-2


def test_modes_follow_the_warm_start_and_eval() -> None:
    model = small_net()
    usual = copy.deepcopy(model)
    search = ActivationSearch(model, 12, warm_start=1, shrink_start=2)
    x, y = batch()
    assert [type(m) for m in model if isinstance(m, Site)] == [Site, Site]
    torch.testing.assert_close(model(x), usual(x))  # warm: the usual activation, each place its own
    outer = search.architecture_step(lambda: F.cross_entropy(model(x), y))
    assert outer != F.cross_entropy(usual(x), y)  # the outer level is relaxed even then
    search.end_epoch()
    model.train()
    assert not torch.equal(model(x), model(x))  # a new draw in every forward pass
    model.eval()
    assert torch.equal(model(x), model(x))  # the discrete cell


def test_eval_computes_the_genotype() -> None:
    model = small_net()
    search = ActivationSearch(model, 12, warm_start=0)
    while search.cell.drops_left:
        search.cell.drop()
    found = search.genotype()
    site = model[2]
    x = torch.randn(64, 3, 8, 8)
    hidden = []
    site.register_forward_hook(lambda module, args, out: hidden.append((args[0], out)))
    model.eval()
    model(x)
    before, after = hidden[0]
    if found.bound is None:
        inside = before.abs() < 3
        torch.testing.assert_close(after[inside], found(before)[inside], atol=2e-3, rtol=2e-3)


def test_the_whole_loop_ends_with_one_survivor_a_slot() -> None:
    model = small_net()
    search = ActivationSearch(model, 12, warm_start=1, shrink_start=2, lr=1e-2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    dropped = []
    for _ in range(12):
        x, y = batch()
        search.architecture_step(lambda x=x, y=y: F.cross_entropy(model(x), y))
        x, y = batch()
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        dropped += search.end_epoch()
    assert len(dropped) == 104
    assert all(len(names) == 1 for names in search.cell.survivors.values())
    assert search.genotype().text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_in_both_levels(dtype: torch.dtype) -> None:
    model = small_net()
    search = ActivationSearch(model, 10, warm_start=0)
    scalers = [torch.amp.GradScaler("cpu", enabled=dtype is torch.float16, init_scale=1024.0) for _ in range(2)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    dtypes = []
    model[2].register_forward_hook(lambda module, args, out: dtypes.append((args[0].dtype, out.dtype)))
    before = snapshot(search.cell)
    for _ in range(3):
        x, y = batch()

        def loss(x: Tensor = x, y: Tensor = y) -> Tensor:
            with torch.autocast("cpu", dtype):
                return F.cross_entropy(model(x), y)

        search.architecture_step(loss, scalers[0] if dtype is torch.float16 else None)
        optimizer.zero_grad()
        scalers[1].scale(loss()).backward()
        scalers[1].step(optimizer)
        scalers[1].update()
    assert search.skipped == 0
    assert all(p.dtype is torch.float32 and p.isfinite().all() for p in search.cell.parameters())
    assert not any(torch.equal(before[k], v) for k, v in snapshot(search.cell).items())
    assert all(a == b for a, b in dtypes)


def test_non_finite_outer_steps_are_skipped_counted_and_end_the_run() -> None:
    model = small_net()
    search = ActivationSearch(model, 10, warm_start=0, max_skips=3)
    x, y = batch()
    search.architecture_step(lambda: F.cross_entropy(model(x), y))
    before = snapshot(search.cell)
    bad = x.clone()
    bad[0] = float("nan")
    search.architecture_step(lambda: F.cross_entropy(model(bad), y))
    search.architecture_step(lambda: F.cross_entropy(model(x), y) * float("inf"))
    assert same(before, snapshot(search.cell))
    assert search.skipped == 2
    search.architecture_step(lambda: F.cross_entropy(model(x), y))
    for _ in range(2):
        search.architecture_step(lambda: F.cross_entropy(model(bad), y))
    with pytest.raises(RunError, match="3 architecture steps in a row"):
        search.architecture_step(lambda: F.cross_entropy(model(bad), y))


def test_a_float16_overflow_lowers_the_scale_and_skips() -> None:
    model = small_net()
    search = ActivationSearch(model, 10, warm_start=0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    x, y = batch()
    before = snapshot(search.cell)
    search.architecture_step(lambda: F.cross_entropy(model(x), y) * float("inf"), scaler)
    assert same(before, snapshot(search.cell))
    assert scaler.get_scale() == 2.0**15
    search.architecture_step(lambda: F.cross_entropy(model(x), y), scaler)
    assert not same(before, snapshot(search.cell))


def test_state_goes_round_and_goes_on_the_same() -> None:
    def advance(model: nn.Module, search: ActivationSearch, steps: int) -> None:
        for _ in range(steps):
            x, y = batch()
            search.architecture_step(lambda x=x, y=y: F.cross_entropy(model(x), y))
            search.end_epoch()

    model = small_net()
    search = ActivationSearch(model, 12, warm_start=0, lr=1e-2)
    advance(model, search, 4)
    state = copy.deepcopy(search.state_dict())
    torch.manual_seed(7)
    advance(model, search, 8)

    other_model = small_net()
    other = ActivationSearch(other_model, 12, warm_start=0, lr=1e-2)
    other.load_state_dict(state)
    torch.manual_seed(7)
    advance(other_model, other, 8)
    assert same(snapshot(search.cell), snapshot(other.cell))
    assert other.genotype() == search.genotype()
    assert other.outside == search.outside


def test_a_compiled_model_searches_the_same_in_one_graph_for_each_level_and_mode() -> None:
    from torch._dynamo.utils import counters

    def run(compiled: bool) -> tuple[list[float], dict[str, Tensor]]:
        torch.manual_seed(5)
        x, y = batch()
        model = small_net()
        torch.manual_seed(1)
        search = ActivationSearch(model, 12, warm_start=1)
        if compiled:
            search.compile_model(backend="aot_eager", fullgraph=True)
        losses = []
        for _ in range(3):
            losses.append(float(search.architecture_step(lambda: F.cross_entropy(model(x), y))))
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            model.eval()
            with torch.no_grad():
                losses += [float(loss), float(F.cross_entropy(model(x), y))]
            model.train()
            search.end_epoch()
        return losses, snapshot(model)

    torch.compiler.reset()
    counters.clear()
    plain, compiled = run(False), run(True)
    assert counters["stats"]["unique_graphs"] == 5  # usual and relaxed training, usual and chosen evaluation, outer
    assert plain[0] == pytest.approx(compiled[0], rel=1e-6)
    for name, value in plain[1].items():
        torch.testing.assert_close(value, compiled[1][name], msg=name)


def test_a_model_without_activations_and_a_bad_length_are_named() -> None:
    with pytest.raises(GrafsError, match="no activation module"):
        ActivationSearch(nn.Linear(2, 2), 10)
    with pytest.raises(ValueError, match="warm_start"):
        ActivationSearch(small_net(), 10, warm_start=10)


def test_resnet20_has_19_sites_and_one_step_runs() -> None:
    model = timm.create_model("cifar_resnet20", num_classes=10)
    search = ActivationSearch(model, 50, warm_start=0)
    assert search.report.replaced == search.report.total == 19
    x, y = torch.randn(4, 3, 32, 32), torch.randint(10, (4,))
    assert search.architecture_step(lambda: F.cross_entropy(model(x), y)).isfinite()
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def accumulated(parts: int, dtype: torch.dtype, scaler: torch.amp.GradScaler | None = None) -> list[Tensor]:
    """(γ, α) and the loss after a step on one batch in so many micro-batches, all with the same draws, without BatchNorm."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(128, 4))
    search = ActivationSearch(model.to(dtype), 10, warm_start=0)
    x, y = batch()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        torch.manual_seed(5)
        return F.cross_entropy(model(x.to(dtype)), y)

    losses = [lambda x=x, y=y: loss(x, y) for x, y in zip(x.chunk(parts), y.chunk(parts), strict=True)]
    mean = search.architecture_step(losses[0] if parts == 1 else losses, scaler)
    gradient = torch.cat([p.grad for p in search.cell.parameters()])
    return [mean, gradient, *snapshot(search.cell).values()]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-3)], ids=str)
def test_micro_batches_make_the_same_outer_step(dtype: torch.dtype, tolerance: float) -> None:
    mean, gradient, *_ = accumulated(1, dtype)
    for parts in (2, 4):
        ours, theirs, *_ = accumulated(parts, dtype)
        assert float((ours - mean).abs()) < 1e-6
        assert float((theirs - gradient).norm() / gradient.norm()) < tolerance


def test_micro_batches_under_a_loss_scale() -> None:
    plain = accumulated(2, torch.float32)
    scaled = accumulated(2, torch.float32, torch.amp.GradScaler("cpu", init_scale=1024.0))
    torch.testing.assert_close(scaled, plain, rtol=1e-4, atol=1e-6)


def test_an_outer_step_without_a_loss_is_named() -> None:
    with pytest.raises(ValueError, match="at least one loss"):
        ActivationSearch(small_net(), 10).architecture_step([])
