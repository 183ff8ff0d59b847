"""Campaigns with made-up figures, as zoo entries are published from: ledgers of `made_ledger`, of images and of text."""

from made_ledger import FOUND, made_ledger

from grafs_timm.comparison.campaign import Campaign
from grafs_timm.publishing import evidence
from grafs_timm.publishing import requirements as publishable
from grafs_timm.zoo.entry import Contents, Facts

COST = """tool,device,hardware,torch,triton,threads,dtype,subject,baseline,shape,what,median_ms,q25_ms,q75_ms,repeats
b,cpu,made-up,2.13.0,,1,float32,gelu,gelu,1024,full,2.0,1.9,2.1,31
b,cpu,made-up,2.13.0,,1,float32,{label},gelu,1024,full,3.0,2.9,3.1,31
"""
STEPS = {"batch_size": 8, "steps_per_epoch": 10}
GPT = {
    "model": "gpt_mini",
    "search": {"epochs": 4, "warm_start": 1, "shrink_start": 2, "usual": "gelu"} | STEPS,
    "evaluate": {"epochs": 2, "weights": {"sched": "none"}} | STEPS,
    "transfer": {"random": 1},
    "campaign": {"searches": 5, "seeds": 3, "keep": 3, "keep_seeds": 3},
}


def made_campaign(zoo, name="digits_standard", found=FOUND, cost="searches_s0", lift=0.0, seed=0, of_text=False, **changes):
    """A finished campaign of the family resnet, with ``of_text`` gpt, in the folder ``zoo``; its ledger's folder.

    ``lift``: points of accuracy, or hundredths of a nat, that found functions are above the others.
    """
    folder = zoo / ("gpt" if of_text else "resnet") / "evidence" / name
    folder.mkdir(parents=True)
    if of_text:
        (zoo.parent / "tales.txt").write_text("a tale " * 1000, encoding="utf-8")
        changes = GPT | {"data": {"name": str(zoo.parent / "tales.txt"), "text": {"context": 16}}} | changes
    figures = {f"searches_s{number}": 90.0 + lift for number in range(len(found))}
    figures |= {label: 91.0 + lift for label in [cost] if label}  # what is published is the best of the searches
    made_ledger(folder, figures, seed=seed, found=found, **changes)
    if cost:
        (folder / "cost.csv").write_text(COST.format(label=cost), encoding="utf-8")
    return folder


FACTS = Facts(gain=1.5, low=-0.4, high=10.0, lipschitz=1.05, kinks=(), monotone="no", fp16=True, bf16=True)


def made_entry(zoo, name="grafs_resnet_a1", alias=True, label=None, facts=FACTS, cost="searches_s0", **changes):
    """An entry and its evidence below ``zoo``, without its file; ``changes`` go to `made_campaign`."""
    family, own = name.split("_")[1:]
    campaign = Campaign.read(made_campaign(zoo, own, cost=cost, **changes))
    batch = publishable.batch(campaign, evidence.named(campaign), label or cost)
    genotype = publishable.genotype_of(campaign, batch.label).to_dict(derived=True)
    entry = Contents(
        format="grafs-zoo/2", name=name, family=family, alias=alias, recommended=alias, licence="Apache-2.0",
        genotype=genotype, facts=facts, batches=(batch,), verified=(), sha256="0" * 64,
    )  # fmt: skip
    return entry.sealed()
