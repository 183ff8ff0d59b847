"""Examine every architecture of the installed timm and write grafs_timm/models/support.csv and docs/support.md.

python tools/make_support.py                # all, some minutes on two cores
python tools/make_support.py 'convnext*'    # prints rows and writes nothing
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
import warnings
from pathlib import Path

import timm
from tqdm import tqdm

from grafs_timm.models import support


def _examine(name: str) -> support.Row:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return support.examine(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pattern", nargs="?", default="")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    chosen = parser.parse_args()
    ours = ("cifar_", "gpt_")  # not timm's
    names = [name for name in timm.list_models(chosen.pattern) if not name.startswith(ours)]
    start = time.time()
    with multiprocessing.get_context("spawn").Pool(chosen.workers) as pool:
        rows = list(tqdm(pool.imap(_examine, names, chunksize=8), total=len(names)))
    if chosen.pattern:
        print(support.as_text(rows))
        return
    support.write(rows)
    page = Path(__file__).parents[1] / "docs" / "support.md"
    page.write_text(support.summary(rows), encoding="utf-8")
    print(f"{len(rows)} architectures in {time.time() - start:.0f} s: {support.TABLE}, {page}")


if __name__ == "__main__":
    main()
