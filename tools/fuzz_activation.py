"""Calls of a found activation and of the table's lookup beside GELU, in child processes: no signal, no silent difference.

    python tools/fuzz_activation.py --calls 5000 --seed 0

Both are made to be GELU, so that every call has its right answer: what ``torch.nn.functional.gelu`` gives in the same place.
A call is drawn of dtype × device context × layout × shape × mode × transform. Wherever GELU is right, ours is right or raises;
nothing ends the process. A child that dies is one finding; another goes on behind the call that killed it.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from grafs_timm.activations.activation import activation_class
from grafs_timm.activations.genotype import Gene, Genotype
from grafs_timm.search.table import Grid, lookup

_KEEP = Gene("identity")
GELU = Genotype(_KEEP, _KEEP, Gene("left"), _KEEP, Gene("gelu"), Gene("right"))
GRID = Grid()

Function = Callable[[Tensor], Tensor]


def tabulated() -> dict[str, Function]:
    rows = GRID.rows(F.gelu(GRID.points(dtype=torch.float64))[None].float())[0].detach()
    return {
        "activation": activation_class(GELU)(),
        "lookup": lambda x: lookup(x, rows, GRID),
        "lookup in place": lambda x: lookup(x * 1, rows, GRID, inplace=True),
    }


# ------------------------------------------------------------------------------------------------------ what is drawn

_NAMES = "float32 float32 bfloat16 float16 float64 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu"
DTYPES = [*_NAMES.split(), "float4_e2m1fn_x2", "int64", "uint8", "bool", "complex64"]
SHAPES = [
    (),
    (0,),
    (1,),
    (100,),
    (3, 4, 5),
    (2**14 - 1,),
    (2**14,),
    (20_000,),
    (2, 8, 32, 40),
    (2, 4, 8, 16, 18),
    (3, 1, 90, 91),
]


@contextlib.contextmanager
def _default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


CONTEXTS: dict[str, Callable[[], Any]] = {
    "usual": contextlib.nullcontext,
    "with cpu": lambda: torch.device("cpu"),
    "with meta": lambda: torch.device("meta"),
    "default meta": lambda: _default_device("meta"),
    "default float64": lambda: _default_dtype(torch.float64),
    "default float16": lambda: _default_dtype(torch.float16),
}


def _freed(x: Tensor) -> Tensor:
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


def _misaligned(x: Tensor) -> Tensor:
    memory = bytearray(x.numel() * x.element_size() + 1)
    y = torch.frombuffer(memory, dtype=x.dtype, offset=1, count=x.numel()).view(x.shape)
    return y.copy_(x)


LAYOUTS: dict[str, Function] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d),
    "transposed": lambda x: x.mT,
    "every second": lambda x: x[..., ::2],
    "reversed dimensions": lambda x: x.permute(*reversed(range(x.dim()))),
    "expanded": lambda x: x[:1].expand(x.shape),
    "behind an offset": lambda x: torch.cat([x.flatten()[:3], x.flatten()])[3:].view(x.shape),
    "misaligned": _misaligned,
    "negative view": lambda x: torch._neg_view(x),
    "imaginary part of a conjugate": lambda x: torch.complex(x, x).conj().imag,
    "zeros that are not stored": lambda x: torch._efficientzerotensor(x.shape, dtype=x.dtype),
    "freed": _freed,
    "parameter": lambda x: nn.Parameter(x),
    "on meta": lambda x: x.to("meta"),
    "cpu:0": lambda x: torch.empty_like(x, device="cpu:0").copy_(x),
    "sparse": lambda x: x.to_sparse(),
    "sparse rows": lambda x: x.view(-1, 4).to_sparse_csr(),
    "nested": lambda x: torch.nested.nested_tensor([x, x[: len(x) // 2]]),
    "jagged": lambda x: torch.nested.nested_tensor([x, x[: len(x) // 2]], layout=torch.jagged),
    "mkldnn": lambda x: x.to_mkldnn(),
    "quantized": lambda x: torch.quantize_per_tensor(x.float(), 0.05, 0, torch.qint8),
}


def _plainly(f: Function, x: Tensor) -> Any:
    return f(x)


def _graph_kept(f: Function, x: Tensor) -> Any:
    return make_fx(f)(x * 0 + 1)(x)


def _autocast(f: Function, x: Tensor) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return f(x)


def _within(mode: Callable[[], Any]) -> Callable[[Function, Tensor], Any]:
    def run(f: Function, x: Tensor) -> Any:
        with mode():
            return f(x)

    return run


MODES: dict[str, Callable[[Function, Tensor], Any]] = {
    "eager": _plainly,
    "no_grad": _within(torch.no_grad),
    "inference": _within(torch.inference_mode),
    "autocast": _autocast,
    "fake": _within(lambda: FakeTensorMode(allow_non_fake_inputs=True)),
    "flop counter": _within(lambda: FlopCounterMode(display=False)),
    "make_fx": _graph_kept,
    "checkpoint": lambda f, x: checkpoint(f, x, use_reentrant=False),
}


def _gradient(f: Function, x: Tensor) -> Any:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(f(x).sum(), x)[0]


def _batched(f: Function, x: Tensor) -> Any:
    x = x.detach().requires_grad_()
    y = f(x)
    return torch.autograd.grad(y, x, torch.stack([torch.ones_like(y), y.detach()]), is_grads_batched=True)[0]


def _penalty(f: Function, x: Tensor) -> Any:
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    return torch.autograd.grad(slope.square().sum(), x)[0]


TRANSFORMS: dict[str, Callable[[Function, Tensor], Any]] = {
    "value": _plainly,
    "gradient": _gradient,
    "batched gradients": _batched,
    "second derivative": _penalty,
    "vmap": lambda f, x: torch.vmap(f)(x),
    "func.grad": lambda f, x: torch.func.grad(lambda y: f(y).sum())(x),
    "func.vjp": lambda f, x: torch.func.vjp(f, x)[1](torch.full_like(x, 0.5))[0],
    "func.jvp": lambda f, x: torch.func.jvp(f, (x,), (torch.full_like(x, 0.5),))[1],
    "within vmap, not of it": lambda f, x: torch.vmap(lambda y: f(x) + y)(
        torch.zeros(2, *x.shape, device="cpu", dtype=x.dtype)
    ),
}
_TABLES_SLOPE = {"gradient", "batched gradients", "func.grad", "func.vjp", "func.jvp"}  # exact to the width of an interval


def drawn(number: int, seed: int) -> dict[str, Any]:
    """Call ``number`` of a seed: half of the draws of each kind are what is usual, so that not everything is odd at once."""
    rng = random.Random(f"{seed}/{number}")

    def some(choices: Any, usual: float = 0.4) -> Any:
        choices = list(choices)
        return choices[0] if rng.random() < usual else rng.choice(choices)

    function, layout, mode = rng.choice(["activation", "activation", "lookup", "lookup in place"]), some(LAYOUTS), some(MODES)
    if layout == "freed":  # torch's own copy and product of it end the process
        function, mode = function.removesuffix(" in place"), "eager"
    if layout == "nested" and mode == "fake":  # GELU itself aborts
        mode = "eager"
    return {
        "function": function, "dtype": some(DTYPES), "shape": rng.choice(SHAPES), "layout": layout,
        "context": some(CONTEXTS), "mode": mode, "transform": some(TRANSFORMS), "seed": number,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------ one call


def _made(call: dict[str, Any]) -> Tensor:
    torch.manual_seed(call["seed"])
    dtype = getattr(torch, call["dtype"])
    x = 3 * torch.randn(call["shape"])
    x = x.abs().view(torch.uint8)[: x.numel()].view(dtype) if call["dtype"] == "float4_e2m1fn_x2" else x.to(dtype)
    return LAYOUTS[call["layout"]](x)


def _outcome(call: dict[str, Any], f: Function) -> Any:
    """What comes out, or the exception that does."""
    try:
        x = _made(call)
    except Exception:
        return None  # torch has no such tensor
    try:
        with CONTEXTS[call["context"]]():
            return TRANSFORMS[call["transform"]](lambda y: MODES[call["mode"]](f, y), x)
    except Exception as error:
        return error


def _difference(want: Any, got: Tensor, call: dict[str, Any]) -> str:
    """Empty where the two are the same tensor, up to what the dtype and the table allow."""
    if want.is_nested and got.is_nested:
        want, got = (torch.cat([part.flatten() for part in y.unbind()]) for y in (want, got))
    for what in ("shape", "dtype", "device", "layout"):
        if getattr(want, what) != getattr(got, what):
            return f"{what} {getattr(got, what)} where GELU has {getattr(want, what)}"
    if type(want) is not type(got):
        return f"{type(got).__name__} where GELU gives {type(want).__name__}"
    if want.is_meta or isinstance(want, FakeTensor):
        return ""  # no numbers to compare
    if want.layout is not torch.strided:
        want, got = want.to_dense(), got.to_dense()
    tolerance = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float64: 1e-6}.get(want.dtype, 2e-5)
    if call["function"] != "activation" and call["transform"] in _TABLES_SLOPE:
        tolerance = max(tolerance, 2e-2)
    elif call["function"] != "activation":
        tolerance = max(tolerance, 2e-5)
    if call["mode"] == "autocast":
        tolerance = max(tolerance, 3e-2)
    if torch.allclose(want.double(), got.double(), atol=tolerance, rtol=tolerance, equal_nan=True):
        return ""
    return f"off by {float((want.double() - got.double()).abs().max()):.2g}"


def judged(call: dict[str, Any], functions: dict[str, Function]) -> tuple[str, str]:
    """(right, refused by both, refused by ours alone, GELU refuses, no such tensor or different; what is different)."""
    freed = call["layout"] == "freed"  # GELU raises for some of these and reads address 0 for others
    want = RuntimeError("freed") if freed else _outcome(call, F.gelu)
    if want is None:
        return "no such tensor", ""
    got = _outcome(call, functions[call["function"]])
    if isinstance(want, Exception):
        return ("refused by both" if isinstance(got, Exception) else "GELU refuses"), ""
    if isinstance(got, Exception):
        return "refused by ours alone", f"{type(got).__name__}: {str(got)[:100]}"
    if isinstance(got, FakeTensor) and not isinstance(want, FakeTensor):
        return "refused by ours alone", "a FakeTensor: whoever reads its numbers gets an error"
    with torch.no_grad():
        wrong = _difference(want, got, call)
    return ("different", wrong) if wrong else ("right", "")


# ------------------------------------------------------------------------------------------------------ processes


def _child(begin: int, end: int, seed: int) -> None:
    """Print the number of each call before it and what became of it after it, as lines of JSON."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    functions = tabulated()
    for number in range(begin, end):
        call = drawn(number, seed)
        print(json.dumps([number, "begun"]), flush=True)
        verdict, why = judged(call, functions)
        print(json.dumps([number, verdict, why]), flush=True)


def fuzzed(calls: int, seed: int, part: int = 1000) -> tuple[Counter[str], list[str]]:
    """(how often each verdict, a line for each finding)."""
    counts: Counter[str] = Counter()
    findings, at = [], 0
    while at < calls:
        end = min(calls, at - at % part + part)
        command = [sys.executable, __file__, "--child", str(at), str(end), "--seed", str(seed)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
        counts["child processes"] += 1
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
        for number, verdict, why in (line for line in lines if len(line) == 3):
            counts[verdict] += 1
            if verdict == "different":
                findings.append(f"{why}: {drawn(number, seed)}")
        if done.returncode == 0:
            at = end
            continue
        if not lines or done.returncode > 0:
            raise RuntimeError(f"a child failed by itself:\n{done.stderr[-2000:]}")
        counts["signals"] += 1
        findings.append(f"{signal.Signals(-done.returncode).name}: {drawn(lines[-1][0], seed)}")
        at = lines[-1][0] + 1
    return counts, findings


@click.command(help=__doc__)
@click.option("--calls", default=5000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--child", nargs=2, type=int, hidden=True)
def main(calls: int, seed: int, child: tuple[int, int] | None) -> None:
    if child:
        return _child(*child, seed)
    counts, findings = fuzzed(calls, seed)
    print(*findings, sep="\n", end="\n" if findings else "")
    order = ("right", "refused by both", "refused by ours alone", "GELU refuses", "no such tensor", "different", "signals")
    print(f"{calls:,} calls, seed {seed}, {counts['child processes']} child processes:", end=" ")
    print(", ".join(f"{counts[verdict]:,} {verdict}" for verdict in order))
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
