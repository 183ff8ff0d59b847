"""Every zoo entry and 30 random cells through every way a model is deployed: ``python tools/export_matrix.py``.

Writes docs/deployment.csv (one row for each activation, model, check and thing compared) and docs/deployment.md, which sums
them up. Random cells are drawn over all operations of the paper's space with one seed. Some eight minutes on one core.
"""

from __future__ import annotations

import argparse
import csv
import functools
import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from deployment_checks import CHECKS, EXACT, FLOAT32, HALF, Check, Make, Outcome, perform
from torch import Tensor, nn
from tqdm import tqdm

from grafs_timm.activations import facts
from grafs_timm.activations.activation import activation_class
from grafs_timm.activations.genotype import Genotype, random_genotype
from grafs_timm.zoo import lookup as zoo

DOCS = Path(__file__).resolve().parent.parent / "docs"
COLUMNS = ("activation", "formula", "model", "check", "what", "error", "tolerance", "holds", "note")
SEED, COUNT = 20240806, 30
COMMAND = "python tools/export_matrix.py"
_STEEP = "|f′| reaches 21.6: many of it one after another amplify a rounding of the convolutions"
# what is known not to hold, and why: (activation, model, check, what)
OUTSIDE = {("grafs_gpt_ts_s2", "test_resnet", check, "outputs"): _STEEP for check in ("torch.compile", "channels_last")}


@dataclass(frozen=True)
class Subject:
    """One activation in one model: ``make`` builds it anew, with the same weights each time; ``x`` is a batch for it.

    ``slope``: the largest |f′| on [−10, 10] where that loosens what is asked of the gradients, else 1.
    """

    activation: str
    genotype: Genotype
    model: str
    make: Make
    x: Tensor
    slope: float = 1.0


def _batch(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def _small(genotype: Genotype) -> nn.Module:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.Conv2d(16, 16, 3, stride=2, padding=1)
    return nn.Sequential(first, nn.BatchNorm2d(16), activation_class(genotype)(), second, nn.Flatten(), nn.Linear(4096, 5))


def _timm(genotype: Genotype, name: str) -> nn.Module:
    torch.manual_seed(0)
    size = {"img_size": 64} if "vit" in name else {}
    return timm.create_model(name, num_classes=5, act_layer=activation_class(genotype), **size)


def small(activation: str, genotype: Genotype) -> Subject:
    """Convolution, batch norm, f on 32,768 numbers, convolution, linear: f once, so that its own error is what shows."""
    return Subject(activation, genotype, "small", functools.partial(_small, genotype), _batch(32))


def in_timm(activation: str, genotype: Genotype, name: str, slope: float = 1.0) -> Subject:
    return Subject(activation, genotype, name, functools.partial(_timm, genotype, name), _batch(64), slope)


def random_cells(count: int = COUNT) -> dict[str, Genotype]:
    rng = np.random.default_rng(SEED)
    return {f"random_{index:02d}": random_genotype(rng) for index in range(count)}


def plan(count: int = COUNT) -> Iterator[tuple[Subject, Check]]:
    """Zoo entries: every check in two of timm's models. Random cells: in the small model, and in timm's where it must be exact.

    A random cell repeated twelve times amplifies a rounding without end, so there only what is bit for bit the same compares.
    """
    for entry in zoo.entries().values():
        slope = facts.of(entry.genotype).lipschitz
        for name in ("test_resnet", "test_vit"):
            subject = in_timm(entry.name, entry.genotype, name, slope)
            yield from ((subject, check) for check in CHECKS.values())
    for activation, genotype in random_cells(count).items():
        alone, deep = small(activation, genotype), in_timm(activation, genotype, "test_resnet")
        yield from ((deep if check.tolerance == EXACT else alone, check) for check in CHECKS.values())


def _row(subject: Subject, outcome: Outcome) -> dict[str, str]:
    why = "" if outcome.holds else OUTSIDE.get((subject.activation, subject.model, outcome.check, outcome.what), "")
    return {
        "activation": subject.activation, "formula": subject.genotype.text, "model": subject.model,
        "check": outcome.check, "what": outcome.what, "error": "" if outcome.error is None else f"{outcome.error:.1e}",
        "tolerance": f"{outcome.tolerance:.1e}", "holds": "yes" if outcome.holds else "no", "note": outcome.note or why,
    }  # fmt: skip


def _cell(rows: Sequence[dict[str, str]]) -> str:
    """«30 of 30, 7.1e-07»: how many activations hold in everything compared, and the largest error of any."""
    if not rows:
        return "–"
    names = {row["activation"] for row in rows}
    failed = {row["activation"] for row in rows if row["holds"] == "no"}
    errors = [float(row["error"]) for row in rows if row["error"]]
    return f"{len(names - failed)} of {len(names)}, {_figure(max(errors))}" if errors else f"0 of {len(names)}"


def _figure(error: float) -> str:
    return "equal" if error == 0 else f"{error:.1e}"


def _allowed(check: Check) -> str:
    outputs, gradients = (_figure(value) for value in (check.tolerance.outputs, check.tolerance.gradients))
    return outputs if outputs == gradients or check.how.startswith("inference") else f"{outputs}, gradients {gradients}"


def page(rows: Sequence[dict[str, str]]) -> str:
    """The table for readers, in Markdown."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "timm", "onnx", "onnxruntime"))
    at_random = [row for row in rows if row["activation"].startswith("random_")]
    of_zoo = [row for row in rows if not row["activation"].startswith("random_")]
    entries, cells = (len({row["activation"] for row in part}) for part in (of_zoo, at_random))
    lines = [*_INTRODUCTION.format(command=COMMAND, versions=versions, entries=entries, cells=cells).splitlines()]
    for check in CHECKS.values():
        where = [[row for row in of_zoo if row["model"] == model] for model in ("test_resnet", "test_vit")]
        found = [_cell([row for row in part if row["check"] == check.name]) for part in (*where, at_random)]
        lines.append(f"| {check.name} | {check.how} | {_allowed(check)} | {' | '.join(found)} |")
    return "\n".join([*lines, _TOLERANCES, *_failures(rows), _LIMITS])


_INTRODUCTION = """\
# Deploy a model with a found activation

Generated by `{command}` with {versions}, on a CPU.
Every figure is in [deployment.csv](deployment.csv).

Zoo entries ({entries}) are in timm's `test_resnet` and `test_vit`; {cells} cells drawn at random over all operations
of the paper's space, each γ as a search starts it, are in a small model, and in `test_resnet` for the checks that
must be equal. An error is the largest |got − eager| of a tensor over its largest |eager|; weights are float32, the
model in training mode unless it says inference. Each cell of the table: how many activations are within the tolerance in
everything compared, and the largest error of any of them.

| check | compared | tolerance | zoo, test_resnet | zoo, test_vit | random |
|---|---|---|---|---|---|
"""

_TOLERANCES = f"""
## Tolerances

- **equal**: the same operations in the same order give the same bits.
- **{FLOAT32.outputs:.0e}**: float32 operations that were fused, reordered, or computed by another library's exp and
  erf. Each is accurate to a few units of 2⁻²⁴ = 6e-8, and sums of some hundred of them follow. Eager mode evaluates
  large tensors on a CPU by a curve within 2⁻²⁴·(1 + |f| + |x·f′|) of the formula that compilers and exporters see
  (64 times that in the slope).
- **{FLOAT32.gradients:.0e}** for their gradients: where f has a kink, or a root its slope of up to 500 at its floor,
  a rounding of x decides on which side of it an element lies.
- **{HALF[torch.bfloat16].outputs:.1e}** (bf16), **{HALF[torch.float16].outputs:.1e}** (fp16): a few roundings of half
  a unit, 2⁻⁹ and 2⁻¹², in sequence. The reference model computes f in float64 and rounds once to the dtype: this
  measures the activation in 16 bits, not the effect of 16-bit layers on a model.

For the gradients of a zoo entry the tolerance is multiplied by the largest slope of its function on [−10, 10] where
that is above 1: each activation amplifies a rounding error by up to that factor.

The error of a tensor is relative to at least a thousandth of the largest tensor compared with it. The small model is a
convolution, a batch norm, f on 32,768 numbers, a convolution and a linear layer. Twelve random cells in a row, as in
`test_resnet`, can amplify a rounding error without bound, so there only the checks for equal bits are made.
"""

_LIMITS = """\
## What does not work, and why

- **`torch.load` with `weights_only=True` of a model saved whole**: torch refuses it for every model class. Save the
  `state_dict`, or the whole folder with `grafs_timm.save_pretrained`.
- **A TorchScript model in training saves every intermediate value** of f for backward (15 times x for a cell of six
  operations); eager training saves only x. TorchScript is deprecated in torch: use `torch.export` in new code.
- **An ONNX or exported program is for the dtype it was exported in**: the value at which f saturates is a constant in it.
- **`torch.compile` of more than eight models of one architecture in a process**, each with another activation: torch
  reaches its recompilation limit, as with stock activations. Call `torch._dynamo.reset()` between them.
- Not measured here: CUDA, more than one process, quantisation, TensorRT, mobile back ends.
"""


def _failures(rows: Sequence[dict[str, str]]) -> list[str]:
    failed = [row for row in rows if row["holds"] == "no"]
    if not failed:
        return ["Nothing that was compared lies outside its tolerance.", ""]
    lines = [
        "## Outside the tolerance",
        "",
        "| activation | formula | model | check | what | error | why |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in failed:
        cells = (row[key].replace("|", "\\|") for key in ("activation", "formula", "model", "check", "what", "error", "note"))
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=COUNT, help="random cells (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of deployment.csv and deployment.md (default: docs)")
    asked = parser.parse_args()
    rows = [
        _row(subject, o)
        for subject, check in tqdm(list(plan(asked.cells)))
        for o in perform(check, subject.make, subject.x, subject.slope)
    ]
    asked.out.mkdir(parents=True, exist_ok=True)
    with (asked.out / "deployment.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (asked.out / "deployment.md").write_text(page(rows), encoding="utf-8")
    print(f"{sum(row['holds'] == 'yes' for row in rows)} of {len(rows)} comparisons hold: {asked.out / 'deployment.md'}")


if __name__ == "__main__":
    main()
