"""Read what `report.write_results` wrote, to compare with what was given."""

import csv
from typing import get_type_hints

from grafs_timm.comparison.results import Result

READ = {"int": int, "float": float}


def read_results(path):
    kinds = {name: getattr(hint, "__name__", str(hint).split(" | ")[0]) for name, hint in get_type_hints(Result).items()}
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    return [Result(**{name: READ.get(kinds[name], str)(text) if text else None for name, text in row.items()}) for row in rows]
