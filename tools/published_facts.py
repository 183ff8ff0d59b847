"""Write ``zoo/published.json``, the facts and the cost of the published activations, and ``benchmarks/published_cpu.csv``.

    python tools/published_facts.py            # facts; costs stay as they are
    python tools/published_facts.py --time     # time forward and backward of each beside GELU, too

Each function is timed as this package's module, in alternating rounds with GELU; so are found activations. A function
that timm has under its name is timed as timm's own class too, called ``<name> (timm)`` in the CSV. Set the environment's
MALLOC_MMAP_THRESHOLD_=1073741824 and MALLOC_TRIM_THRESHOLD_=4294967296 for it: glibc else returns memory to the system between
rounds, whose page faults then decide the figures.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from bench_csv import alternate, append, environment
from torch import Tensor

from grafs_timm.activations import facts, published, timm_maps
from grafs_timm.activations.activation import activation_class
from grafs_timm.utils.files import write_json
from grafs_timm.zoo import facts_file, lookup
from grafs_timm.zoo.lookup import is_stock

ROOT = Path(__file__).resolve().parents[1]


@click.command()
@click.option("--time", "timed", is_flag=True, help="Time each function, too.")
@click.option("--elements", default=2**22, show_default=True)
@click.option("--rounds", default=11, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "benchmarks" / "published_cpu.csv", show_default=True)
def main(timed: bool, elements: int, rounds: int, out: Path) -> None:
    """Compute the facts of every published function, and with --time its cost."""
    file = ROOT / "zoo" / facts_file.NAME
    before = facts_file.read() if file.exists() else {}
    costs = _costs(elements, rounds, out) if timed else {name: each["cost"] for name, each in before.items()}
    written = {
        name: {"facts": facts.of(published.get_published(name)).model_dump(mode="json"), "cost": costs.get(name)}
        for name in published.list_published()
    }
    click.echo(f"written: {write_json(file, written)}")


def _costs(elements: int, rounds: int, out: Path) -> dict[str, float]:
    sides: dict[str, Callable[[Tensor], Tensor]] = {}
    for name in published.list_published():
        sides[f"{name} (ours)" if is_stock(name) else name] = activation_class(published.get_published(name))()
        if is_stock(name):
            sides[f"{name} (timm)"] = timm_maps.layer(name)()
    sides |= {name: entry.activation.layer() for name, entry in lookup.entries().items()}
    torch.manual_seed(0)
    x = torch.randn(elements).requires_grad_()
    g = torch.randn(elements)
    common, rows, costs = environment("cpu"), list[dict[str, Any]](), dict[str, float]()
    for name, side in sides.items():  # in pairs: over many sides the machine's speed drifts
        times = alternate({"gelu": _step(F.gelu, x, g), name: _step(side, x, g)}, rounds, "cpu")
        time, ratio = times[name], times[name]["median_ms"] / times["gelu"]["median_ms"]
        costs[name.removesuffix(" (ours)")] = round(ratio, 2)
        click.echo(f"{name:34s} {time['median_ms']:8.3f} ms  {ratio:5.2f} × GELU")
        rows.append(
            common | {"dtype": "float32", "subject": name, "baseline": "gelu", "shape": elements, "what": "full"}
            | {"ratio": f"{ratio:.3f}"} | {key: round(value, 4) for key, value in time.items()}
        )  # fmt: skip
    out.unlink(missing_ok=True)
    append(out, rows)
    return costs


def _step(side: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Callable[[], Any]:
    return lambda: torch.autograd.grad(side(x), x, g)


if __name__ == "__main__":
    main()
