"""What a found activation costs, forward and backward, beside GELU, SiLU, ReLU and its own formula op by op.

    python tools/bench_activation.py --out benchmarks/activation_cpu.csv
    python tools/bench_activation.py --device cuda --dtype float16 --out benchmarks/activation_cuda.csv
    python tools/bench_activation.py --activation mine=runs/mine/genotype.json --activation zoo=grafs_resnet

All sides of a run are timed in alternating rounds; a ratio is a median over GELU's. ``floor_ratio`` compares with memory
alone: two passes over the tensor for forward, three for backward, at the bandwidth a copy reaches in the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import torch
import torch.nn.functional as F
from bench_csv import alternate, append, environment
from torch import Tensor

from grafs_timm.activations.activation import activation_class
from grafs_timm.activations.genotype import Gene, Genotype
from grafs_timm.errors import GrafsError
from grafs_timm.zoo import lookup as zoo

# From short to long: what searches tend to find, and worse.
FORMULAS = {
    "relu_mix": Genotype(Gene("relu"), Gene("neg_part"), Gene("mix", 0.8), Gene("identity"), Gene("identity"), Gene("left")),
    "asinh_gated_gelu": Genotype(Gene("gelu"), Gene("gelu"), Gene("gate"), Gene("asinh"), Gene("identity"), Gene("left")),
    "silu_gated": Genotype(Gene("silu"), Gene("scale", 0.5221), Gene("gate"), Gene("asinh"), Gene("gelu"), Gene("add")),
    "erf_atan_tanh_exp": Genotype(Gene("erf"), Gene("atan"), Gene("mul"), Gene("tanh"), Gene("exp"), Gene("mul")),
    "sinh_softplus": Genotype(Gene("sinh"), Gene("softplus"), Gene("mul"), Gene("asinh"), Gene("silu"), Gene("mix", 0.3)),
}
PASSES = {"forward": 2, "backward": 3, "full": 5}


def _bytes_saved(function: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Bytes of the distinct tensors that autograd keeps for backward."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function(x)
    return sum(kept.values())


def _work(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor, what: str) -> Callable[[], Any]:
    if what == "forward":
        return lambda: function(x)
    if what == "full":
        return lambda: torch.autograd.grad(function(x), x, grad)
    y = function(x)
    return lambda: torch.autograd.grad(y, x, grad, retain_graph=True)


def _given(pairs: tuple[str, ...]) -> dict[str, Genotype]:
    """``LABEL=NAME or path`` -> genotype by label. BadParameter where it is not one, or two sides would have one label."""
    given: dict[str, Genotype] = {}
    for pair in pairs:
        label, found, source = pair.partition("=")
        if not found or not label or not source:
            raise click.BadParameter(f"{pair!r}: expected LABEL=NAME or LABEL=PATH", param_hint="--activation")
        if label in given or label in ("gelu", "silu", "relu", "copy"):
            raise click.BadParameter(f"the label {label!r} is taken", param_hint="--activation")
        try:
            genotype = zoo.resolve(source).genotype
        except GrafsError as error:
            raise click.BadParameter(str(error), param_hint="--activation") from error
        if genotype is None:
            raise click.BadParameter(f"{source!r} is timm's own, which is compiled as it is", param_hint="--activation")
        given[label] = genotype
    return given


@click.command()
@click.option(
    "--activation", "activations", multiple=True, metavar="LABEL=NAME|PATH", help="Instead of the five here; repeatable."
)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--dtype", "dtypes", multiple=True, default=["float32"], show_default=True, help="May be given repeatedly.")
@click.option("--elements", default=2**22, show_default=True)
@click.option("--rounds", default=31, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False), help="Append the rows to this CSV file.")
@click.option("--quick", is_flag=True, help="A smoke test: few elements, one round, one formula, nothing compiled.")
def main(
    activations: tuple[str, ...], device: str, dtypes: tuple[str, ...], elements: int, rounds: int, out: str | None, quick: bool
) -> None:
    """Print and record medians with quartiles, ratios to GELU and to the memory's floor, and the bytes kept."""
    elements, rounds = (2**10, 1) if quick else (elements, rounds)
    formulas = _given(activations) or ({"silu_gated": FORMULAS["silu_gated"]} if quick else FORMULAS)
    common = environment(device)
    for name in dtypes:
        dtype = getattr(torch, name, None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise click.BadParameter(f"{name!r} is no floating point dtype of torch, such as float32 or bfloat16")
        rows = _measure(formulas, device, dtype, elements, rounds)
        if out:
            append(out, [common | row for row in rows])


def _measure(
    formulas: dict[str, Genotype], device: str, dtype: torch.dtype, elements: int, rounds: int
) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    x = torch.randn(elements, device=device).to(dtype).requires_grad_()
    grad, target = torch.randn(elements, device=device).to(dtype), torch.empty(elements, device=device, dtype=dtype)
    sides: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "silu": F.silu, "relu": F.relu}
    for name, genotype in formulas.items():
        sides |= {name: activation_class(genotype)(), f"{name} op by op": genotype}
    kept = {name: _bytes_saved(side, x) for name, side in sides.items()}
    rows = []
    for what in PASSES:
        work = {name: _work(side, x, grad, what) for name, side in sides.items()}
        times = alternate(work | {"copy": lambda: target.copy_(x.detach())}, rounds, device)
        one_pass = times.pop("copy")["median_ms"] / 2
        for name, time in times.items():
            ratio, floor = time["median_ms"] / times["gelu"]["median_ms"], time["median_ms"] / (one_pass * PASSES[what])
            click.echo(
                f"{what:8s} {name:26s} {time['median_ms']:8.3f} ms ({time['q25_ms']:.3f}–{time['q75_ms']:.3f})  "
                f"{ratio:6.2f} × gelu  {floor:6.2f} × memory floor  keeps {kept[name] / (elements * x.element_size()):.0f} × x"
            )
            rows.append(
                {"dtype": str(dtype).removeprefix("torch."), "subject": name, "baseline": "gelu", "shape": elements}
                | {"what": what, "bytes_saved": kept[name], "ratio": f"{ratio:.3f}", "floor_ratio": f"{floor:.3f}"}
                | {key: round(value, 4) for key, value in time.items()}
            )
    return rows


if __name__ == "__main__":
    main()
