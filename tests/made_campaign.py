"""A campaign's folder as tools/fill_zoo.py leaves it, with made-up results: real plans and files, no training behind them."""

import json
import random

from grafs_timm import candidates, formula
from grafs_timm.evidence import Records
from grafs_timm.evidence_collect import collect, write
from grafs_timm.files import write_json
from grafs_timm.formula import Gene, Genotype
from grafs_timm.matrix import Matrix
from grafs_timm.recipe import parse_recipe
from grafs_timm.selection import held_out

X = Gene("identity")
FOUND = (
    Genotype(Gene("elu"), X, Gene("left"), X, Gene("silu"), Gene("mix", -0.4)),
    Genotype(Gene("gelu"), X, Gene("left"), X, X, Gene("left")),
    Genotype(Gene("atan"), X, Gene("left"), X, Gene("relu"), Gene("max")),
    Genotype(Gene("tanh"), X, Gene("left"), X, X, Gene("left")),
    Genotype(X, X, Gene("left"), X, X, Gene("gate")),  # σ(x)·x: SiLU
)
ABOUT = {"hardware": "a made-up machine", "commit": "0000000", "date": "2026-11-25"}
RECIPE = {
    "model": "cifar_resnet20",
    "data": {"name": "digits", "train_images": 400, "test_images": 200},
    "search": {"epochs": 4, "warm_start": 1, "shrink_start": 2, "batch_size": 32},
    "evaluate": {"epochs": 2, "batch_size": 32, "weights": {"sched": "none"}},
    "select": {"epochs": 1, "seeds": 2, "keep": 2, "final_seeds": 4},
    "transfer": {"models": ["cifar_resnet20", "cifar_resnet32"], "random": 3, "seeds": 3},
}
STEPS = {"batch_size": 8, "steps_per_epoch": 10}
GPT = RECIPE | {
    "model": "gpt_mini",
    "search": {"epochs": 4, "warm_start": 1, "shrink_start": 2, "usual": "gelu"} | STEPS,
    "evaluate": {"epochs": 2, "weights": {"sched": "none"}} | STEPS,
    "transfer": {"models": ["gpt_mini", "gpt_tiny"], "random": 3, "seeds": 3},
}
COST = """tool,device,hardware,torch,triton,threads,dtype,subject,baseline,shape,what,median_ms,q25_ms,q75_ms,repeats
b,cpu,made-up,2.13.0,,1,float32,gelu,gelu,1024,full,2.0,1.9,2.1,31
b,cpu,made-up,2.13.0,,1,float32,{label},gelu,1024,full,3.0,2.9,3.1,31
"""


def made_campaign(folder, found=FOUND, cost="searches_s0", lift=0.0, seed=0, of_text=False, **changes):
    """``folder`` filled; ``lift``: points that found functions are above the others; ``changes``: sections of the recipe.

    ``of_text``: of a GPT, measured by loss; a point of accuracy is a hundredth of a nat.
    """
    draw = random.Random(seed)
    if of_text:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tales.txt").write_text("a tale " * 1000)
        changes = {"data": {"name": str(folder / "tales.txt"), "text": {"context": 16}}} | changes
    recipe = parse_recipe((GPT if of_text else RECIPE) | changes, "made")
    selection, matrix = folder / "selection", folder / "matrix"
    choosing = held_out(recipe)
    (selection / "searches").mkdir(parents=True)
    (selection / "recipe.yaml").write_text(choosing.to_yaml())
    for number, genotype in enumerate(found):
        _search(selection / "searches" / f"s{number}", genotype, number, choosing, draw)
    field = candidates.merged(candidates.given(str(selection / "searches")))
    field += [candidates.Candidate(f"random{n}", "random", g) for n, g in enumerate(candidates.random_cells(len(found), 0))]
    field.append(candidates.Candidate("gelu" if of_text else "relu", "baseline"))
    rounds = [(1, (0, 1), field), (1, (2, 3), [*field[:3], field[-1]]), (2, (4, 5, 6, 7), [*field[:2], field[-1]])]
    for epochs, seeds, left in rounds:
        for each in left:
            for own in seeds:
                place = selection / "trainings" / f"{epochs}_epochs" / each.label / f"s{own}"
                _training(place, each, recipe.model, recipe.data.name, own, epochs, "validation", lift, draw)
    write_json(selection / "summary.json", {"kind": "selection", "searches": len(found)})
    asked = recipe.transfer.model_copy(update={"activations": (str(selection / "searches"),)})
    plan = Matrix.plan(recipe.model_copy(update={"transfer": asked}), matrix)
    plan.write()
    for cell in plan.wanted:
        each = plan.activations[cell.activation]
        place, epochs = plan.job_folder(cell), recipe.evaluate.epochs
        _training(place, each, cell.model, recipe.data.name, cell.seed, epochs, "test", lift, draw)
    if cost:
        (folder / "cost.csv").write_text(COST.format(label=cost))
    return folder


def _search(folder, genotype, seed, recipe, draw):
    formula.save(genotype, folder / "genotype.json")
    about = {"format": "grafs-run/1", "kind": "search", "seed": seed, "versions": {"python": "3.11.7", "torch": "2.13.0"}}
    write_json(folder / "run.json", about)
    epochs = range(1, recipe.search.epochs + 1)
    lines = [{"kind": "epoch", "epoch": n, "inner_loss": 2.0 / n, "outer_loss": 2.1 / n, "seconds": 5.0 * n} for n in epochs]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    accuracy = round(draw.gauss(80, 2), 2)
    summary = {
        "kind": "search", "seed": seed, "genotype": genotype.to_dict(), "held_out_accuracy": accuracy,
        "held_out_loss": loss_of(accuracy),
    }  # fmt: skip
    write_json(folder / "summary.json", summary)


def loss_of(accuracy):
    return round(3 - accuracy / 100, 4)


def _training(folder, candidate, model, data, seed, epochs, split, lift, draw):
    folder.mkdir(parents=True, exist_ok=True)
    centre = 70.0 if candidate.kind == "random" else 90.0 + (lift if candidate.kind == "found" else 0.0)
    accuracy = round(draw.gauss(centre, 1.0), 2)
    lines = [
        {
            "kind": "epoch", "epoch": n + 1, "train_loss": 1.0, f"{split}_accuracy": accuracy - (epochs - 1 - n),
            f"{split}_loss": loss_of(accuracy) + (epochs - 1 - n), "skipped": 0, "seconds": 2.0,
        }
        for n in range(epochs)
    ]  # fmt: skip
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = {
        "kind": "evaluate", "activation": candidate.label, "activation_sha256": candidate.sha256, "seed": seed, "model": model,
        "data": data, "measured_on": split, "epochs": epochs,
    }  # fmt: skip
    write_json(folder / "summary.json", summary)


def made_evidence(campaign, folder):
    """The evidence of ``campaign`` in ``folder``; its records."""
    files = collect(campaign, ABOUT)
    write(files, folder)
    return Records.read(folder)
