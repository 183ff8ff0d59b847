"""A campaign's ledger with made-up figures: real plans and a line for every job of a tiny campaign, no training behind them."""

import random

from grafs_timm.activations.genotype import Gene, Genotype
from grafs_timm.comparison import ledger
from grafs_timm.comparison.campaign import Campaign
from grafs_timm.config.recipe import parse_recipe

X = Gene("identity")
FOUND = (
    Genotype(Gene("elu"), X, Gene("left"), X, Gene("silu"), Gene("mix", -0.4)),
    Genotype(Gene("gelu"), X, Gene("left"), X, X, Gene("left")),
    Genotype(Gene("atan"), X, Gene("left"), X, Gene("relu"), Gene("max")),
    Genotype(Gene("tanh"), X, Gene("left"), X, X, Gene("left")),
    Genotype(X, X, Gene("left"), X, X, Gene("gate")),  # σ(x)·x: SiLU
)

HARDWARE, DATE = "a made-up processor", "2026-11-27T12:00:00Z"
RECIPE = {
    "model": "cifar_resnet20",
    "data": {"name": "digits", "validation_images": 100, "train_images": 300, "test_images": 100},
    "search": {"epochs": 4, "warm_start": 1, "shrink_start": 2, "batch_size": 32},
    "evaluate": {"epochs": 2, "batch_size": 32, "weights": {"sched": "none"}},
    "transfer": {"random": 1, "activations": ["grafs2024_wrn"]},
    "campaign": {
        "searches": 5, "seeds": 3, "keep": 3, "keep_seeds": 4,
        "places": [{"model": "cifar_resnet32", "data": "digits"}], "place_seeds": 3,
    },
}  # fmt: skip
# what can be run in half a minute: a training of ReLU, a search, a training of what it finds
REAL = {"transfer": {"baselines": ["relu"]}, "campaign": {"searches": 1, "seeds": 1, "keep": 2, "keep_seeds": 1}}
OPTIONS = ("--device", "cpu", "--wandb", "disabled")


def folder_in(zoo):
    """Where `Campaign.open` looks for it, by the recipe resnet_digits_standard."""
    return zoo / "resnet" / "evidence" / "digits_standard"


def planned(folder, **changes):
    """The campaign in ``folder`` as its ledger is now; ``changes``: sections of the recipe."""
    return Campaign.plan("resnet", parse_recipe(RECIPE | changes, "made"), folder)


def waiting(campaign):
    """The jobs that come next."""
    return next((left for stage in campaign.stages() if (left := campaign.left(stage))), [])


def made_ledger(folder, figures=None, seed=0, hardware=HARDWARE, date=DATE, found=FOUND, rounds=99, **changes):
    """``folder`` filled by so many ``rounds`` of the jobs that come next, by default until nothing is left; its campaign.

    ``figures``: {label: held-out accuracy}, a mean or one value for each training seed; else 90, of random cells 70. The test
    accuracy is a point lower. ``seed`` draws what lies around the means, for each job by itself.
    ``found``: what the searches find, by their seeds.
    """
    campaign = planned(folder, **changes)
    campaign.write()
    while rounds and (jobs := waiting(campaign)):
        ledger.add(folder, [made_line(job, accuracy(job, figures or {}, seed), hardware, date, found) for job in jobs])
        campaign, rounds = Campaign.read(folder), rounds - 1
    return campaign


def accuracy(job, figures, seed):
    given = figures.get(job.label, 70.0 if job.label.startswith("random") else 90.0)
    return given[job.seed] if isinstance(given, list) else round(random.Random(f"{seed} {job}").gauss(given, 0.5), 2)


def made_line(job, accuracy, hardware=HARDWARE, date=DATE, found=FOUND):
    """What ``job`` would have left in the ledger, with this held-out accuracy."""
    search = job.kind == "search"
    genotype = found[job.seed % len(found)] if search else job.genotype
    return ledger.made(
        kind=job.kind, recipe=job.recipe.sha256, function=job.function, genotype=genotype.to_dict() if genotype else None,
        model=job.model, data=job.data, seed=job.seed, split=job.split,
        log=_search(job, genotype) if search else _training(job, accuracy),
        held_out={"accuracy": accuracy, "loss": loss_of(accuracy)} if search else {},
        hardware={"processor": hardware, "threads": "1"}, versions={"python": "3.11.7", "torch": "2.13.0"}, commit="0000000",
        date=date,
    )  # fmt: skip


def _search(job, genotype):
    return [
        {"epoch": n, "inner_loss": 2.0 / n, "outer_loss": 2.1 / n, "alive": 6, "formula": genotype.text, "seconds": 5.0 * n}
        for n in range(1, job.recipe.search.epochs + 1)
    ]


def _training(job, accuracy):
    log = []
    for left in reversed(range(job.recipe.evaluate.epochs)):
        line = {"epoch": job.recipe.evaluate.epochs - left, "train_loss": 1.0 + left}
        for split, own in (("validation", accuracy - left), ("test", accuracy - 1 - left)):
            line |= {f"{split}_accuracy": own, f"{split}_loss": loss_of(own)}
        log.append(line | {"skipped": 0, "seconds": 2.0})
    return log


def loss_of(accuracy):
    return round(3 - accuracy / 100, 4)
