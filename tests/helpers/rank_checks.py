"""What ranks do together in test_parallel.py: each function runs on all of them, and a failed assertion fails the test."""

import contextlib
import os

import pytest
import torch
import torch.nn.functional as F
from tiny_runs import recipe
from torch import nn

from grafs_timm.config.recipe import load_recipe
from grafs_timm.errors import DataError, RunError
from grafs_timm.runs import checkpoint, levels, run_search
from grafs_timm.runs.run_training import run_training
from grafs_timm.runs.weight_step import WeightStep
from grafs_timm.search.bilevel import ActivationSearch
from grafs_timm.utils import parallel


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))


def batch(n=16, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=generator), torch.randint(3, (n,), generator=generator)


def own_part(tensor):
    return tensor.chunk(parallel.world())[parallel.rank()]


def weight_step(model, **settings):
    weights = recipe(search=recipe().search.model_dump() | {"weights": {"lr": 0.1} | settings}).search.weights
    return WeightStep(model, weights, epochs=4, steps_per_epoch=4, amp="off", max_skips=3)


def everywhere(tensors):
    """The tensors of every rank, each rank's laid end to end."""
    return parallel.gather(torch.cat([tensor.detach().reshape(-1) for tensor in tensors]))


def primitives():
    with parallel.joined("cpu") as device:
        rank = parallel.rank()
        assert (device, parallel.world(), parallel.is_main()) == ("cpu", 2, rank == 0)
        a, b = torch.tensor([1.0 + rank, float("nan") if rank else 0.0]), torch.full((2, 2), 4.0 * rank)
        parallel.mean_([a, b])
        assert a[0] == 1.5
        assert a[1].isnan()
        assert torch.equal(b, torch.full((2, 2), 2.0))
        assert parallel.gather({"rank": rank, "x": [torch.ones(rank)]})[1]["x"][0].shape == (1,)
        assert parallel.from_main(lambda: {"said by": parallel.rank()}) == {"said by": 0}
        with pytest.raises(RunError, match="no such thing"):
            parallel.from_main(lambda: (_ for _ in ()).throw(RunError("no such thing")))
        module = nn.BatchNorm1d(3)
        nn.init.constant_(module.weight, rank + 5)
        module.num_batches_tracked += 7 * rank
        parallel.broadcast(module)
        assert module.weight.tolist() == [5, 5, 5]
        assert module.num_batches_tracked == 0
        assert len(set(parallel.gather(parallel.own_seed(1)))) == 2
        same = {"plain": [1, "a"], "inner": {"nan": torch.tensor([float("nan")]), "half": torch.ones((), dtype=torch.bfloat16)}}
        parallel.check_same(same, "here")
        with pytest.raises(RunError, match=r"inner\.nan is not the same everywhere there: rank 1 and rank 0 differ"):
            parallel.check_same(same | {"inner": {"nan": torch.tensor([float(rank)])}}, "there")


def outer_step():
    """α and γ begin with rank 0's, whatever each rank drew for them, and are the same after a step."""
    with parallel.joined("cpu"):
        model = net()
        search = ActivationSearch(model, 10, warm_start=0)
        nn.init.constant_(search.cell.gamma["u1"], 1.0 + parallel.rank())
        assert not torch.equal(*everywhere(search.cell.parameters()))
        x, y = map(own_part, batch())
        mean = search.architecture_step(lambda: F.cross_entropy(model(x), y))
        assert torch.equal(*everywhere(search.cell.parameters()))
        assert float(search.cell.gamma["u1"][0]) < 1.5
        assert len(set(parallel.gather(float(mean)))) == 1


def outer_gradient():
    with parallel.joined("cpu"):
        model = net()
        torch.manual_seed(1)
        search = ActivationSearch(model, 10, warm_start=0)
        x, y = map(own_part, batch())

        def loss():
            torch.manual_seed(10 + parallel.rank())
            return F.cross_entropy(model(x), y)

        with search.architecture():
            value = loss()
            value.backward()
        ours = everywhere(p.grad for p in search.cell.parameters())
        assert not torch.equal(*ours)
        mean = search.architecture_step(loss)
        stepped = everywhere(p.grad for p in search.cell.parameters())
        for gradient in stepped:
            torch.testing.assert_close(gradient, (ours[0] + ours[1]) / 2, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(mean, sum(parallel.gather(value.detach())) / 2)
        assert torch.equal(*everywhere(search.cell.parameters()))


def inner_step(accumulate):
    """The weights step as one process does on the whole batch."""
    with parallel.joined("cpu"):
        parts = int(accumulate)
        x, y = batch()
        alone = net()
        F.cross_entropy(alone(x), y).backward()
        model = net()
        if parallel.rank():
            nn.init.zeros_(model[0].weight)  # rank 0's must win
        step = weight_step(model, momentum=0.0, weight_decay=0.0)
        pieces = zip(own_part(x).chunk(parts), own_part(y).chunk(parts), strict=True)
        mean = step([lambda x=x, y=y: F.cross_entropy(step.network(x), y) for x, y in pieces])
        torch.testing.assert_close(mean, F.cross_entropy(alone(x), y).detach())
        for ours, theirs in zip(model.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs.detach() - 0.1 * theirs.grad)
        assert torch.equal(*everywhere(model.parameters()))


def not_finite():
    """What is not finite on rank 1 alone makes both skip, in both levels."""
    with parallel.joined("cpu"):
        model = net()
        search = ActivationSearch(model, 10, warm_start=0, max_skips=3)
        step = weight_step(model)
        x, y = map(own_part, batch())
        search.architecture_step(lambda: F.cross_entropy(model(x), y))
        step(F.cross_entropy(step.network(x), y))
        before = everywhere([*model.parameters(), *search.cell.parameters()])
        offset = float("inf") if parallel.rank() else 0.0  # a loss that is not finite, with gradients that are
        bad = x * (float("nan") if parallel.rank() else 1.0)
        search.architecture_step(lambda: F.cross_entropy(model(x), y) + offset)
        search.architecture_step(lambda: F.cross_entropy(model(bad), y))
        step(F.cross_entropy(step.network(x), y) + offset)
        step(F.cross_entropy(step.network(bad), y))
        after = everywhere([*model.parameters(), *search.cell.parameters()])
        assert all(map(torch.equal, before, after))
        assert (search.skipped, step.skipped) == (2, 2)
        with pytest.raises(RunError, match="3 architecture steps in a row"):
            search.architecture_step(lambda: F.cross_entropy(model(bad), y))
        with pytest.raises(RunError, match="3 weight steps in a row"):
            step(F.cross_entropy(step.network(bad), y))


def drifted():
    """α that differs after an epoch ends the search on every rank."""
    with parallel.joined("cpu"):
        search = ActivationSearch(net(), 10, warm_start=0)
        search.end_epoch()
        with torch.no_grad():
            search.cell.alpha["u3"][2] += 0.125 * parallel.rank()
        with pytest.raises(RunError, match=r"alpha\.u3 is not the same everywhere after epoch 2: rank 1"):
            search.end_epoch()


def _gone_after(saves):
    """Rank 0 is gone, without a word, when it has written ``saves`` checkpoints."""
    save, left = checkpoint.save, [int(saves)]

    def save_or_end(*arguments):
        if not left[0]:
            os._exit(9)
        left[0] -= 1
        return save(*arguments)

    checkpoint.save = save_or_end


def stopped_search(recipe_file, out, saves):
    _gone_after(saves)
    with contextlib.suppress(RunError):
        run_search.run_search(load_recipe(recipe_file), out, quiet=True)


def stopped_training(recipe_file, out, saves):
    _gone_after(saves)
    with contextlib.suppress(RunError):
        run_training(load_recipe(recipe_file), "relu", out, quiet=True)


def broken_on_one_rank(recipe_file, out):
    """The command line where rank 1 alone cannot read its data."""
    from grafs_timm.cli.main import main

    def load_data(data, split, device):
        raise DataError("train-000001.tar: truncated")

    if parallel.launched() > 1 and not parallel.is_main():
        levels.load_data = load_data
    main(["search", recipe_file, "--out", out, "--quiet"])


def full_disk(recipe_file, out):
    """The command line where rank 0 can write one checkpoint."""
    from grafs_timm.cli.main import main

    save, written = checkpoint.save, []

    def save_once(*arguments):
        if written:
            raise RunError("cannot write checkpoint.pt: No space left")
        written.append(1)
        return save(*arguments)

    checkpoint.save = save_once
    main(["search", recipe_file, "--out", out, "--quiet"])
