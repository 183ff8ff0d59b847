"""Zoo entries with made-up results, consistent in themselves: each has its evidence on disk."""

import hashlib

from made_campaign import made_campaign, made_evidence

from grafs_timm.entry import Contents, Evidence, Facts
from grafs_timm.publishable import batch, search_of

FACTS = Facts(gain=1.5, low=-0.4, high=10.0, lipschitz=1.05, kinks=(), monotone="no", fp16=True, bf16=True)


def made_entry(shelf, name="grafs_resnet_a1", recommended=True, label=None, facts=FACTS, **changes):
    """An entry and its evidence below ``shelf``, a zoo folder, without its file; ``changes`` go to `made_campaign`."""
    family = name.split("_")[1]
    campaign = made_campaign(shelf.parent / f"campaign_{name}", **changes)
    folder = shelf / family / "evidence" / name.removeprefix(f"grafs_{family}_")
    records = made_evidence(campaign, folder)
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    own = batch(records, Evidence(folder=folder.name, files=files), label)
    genotype = search_of(records, own.label).genotype.to_dict(derived=True)
    entry = Contents(
        format="grafs-zoo/1", name=name, family=family, recommended=recommended, licence="Apache-2.0", genotype=genotype,
        facts=facts, batches=(own,), verified=(), sha256="0" * 64,
    )  # fmt: skip
    return entry.sealed()
