"""The weight step: what is not finite, the schedule, micro-batches; and accuracy."""

import pytest
import torch
from tiny_runs import recipe

from grafs_timm.errors import RunError
from grafs_timm.runs.weight_step import WeightStep, accuracy

pytestmark = pytest.mark.usefixtures("plain")


def tiny_step(amp="off", **settings):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    rule = recipe(evaluate={"weights": settings}).evaluate.weights
    return model, WeightStep(model, rule, epochs=4, steps_per_epoch=5, amp=amp, max_skips=3)


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_a_step_that_is_not_finite_leaves_the_weights(amp):
    model, step = tiny_step(amp)
    before = model.weight.clone()
    step(model(torch.full((2, 4), float("inf"))).sum())
    assert torch.equal(model.weight, before)
    assert (step.updates, step.skipped) == (1, 1)
    step(model(torch.ones(2, 4)).sum())
    assert not torch.equal(model.weight, before)
    for _ in range(2):
        step(model(torch.full((2, 4), float("nan"))).sum())
    with pytest.raises(RunError, match=r"3 weight steps in a row .* \(last loss nan\)"):
        step(model(torch.full((2, 4), float("nan"))).sum())


def test_the_schedule_goes_on_from_a_state():
    runs = []
    for stop in (None, 7):
        model, step = tiny_step(sched="cosine", warmup_epochs=1, clip_grad=1.0)
        rates = []
        for update in range(20):
            if update == stop:
                state, weights = step.state_dict(), model.state_dict()
                model, step = tiny_step(sched="cosine", warmup_epochs=1, clip_grad=1.0)
                model.load_state_dict(weights)
                step.load_state_dict(state)
            step(model(torch.ones(2, 4) * update).square().mean())
            rates.append(step.optimizer.param_groups[0]["lr"])
        runs.append((rates, model.weight.tolist()))
    assert runs[0] == runs[1]
    assert max(runs[0][0]) > 5 * runs[0][0][-1]


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_micro_batches_make_the_same_step(amp):
    x, y = torch.randn(12, 4, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 3
    results = []
    for parts in (1, 2, 3):
        model, step = tiny_step(amp, clip_grad=0.1)
        loss = [
            lambda x=x, y=y, model=model: torch.nn.functional.cross_entropy(model(x), y)
            for x, y in zip(x.chunk(parts), y.chunk(parts), strict=True)
        ]
        mean = step(loss[0]() if parts == 1 else loss)
        assert step.updates == 1
        results.append((mean, model.weight.detach().clone()))
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])


def test_accuracy_puts_the_mode_back():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.9)).train()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[0].bias.zero_()
    batches = [(torch.eye(2), torch.tensor([0, 1])), (torch.eye(2)[:1], torch.tensor([1]))]
    top1, loss = accuracy(model, batches)
    assert top1 == pytest.approx(200 / 3)
    assert loss == pytest.approx((2 * 0.3132617 + 1.3132617) / 3, abs=1e-6)
    assert model.training
