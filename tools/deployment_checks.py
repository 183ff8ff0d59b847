"""What a model with a found activation goes through after training, each compared with the same model run eagerly.

A check makes the model twice, runs one of the two the way it is about and the other eagerly, and returns two pairs (what came
out, what eager gives): of outputs, and of gradients where it is a training step.
"""

from __future__ import annotations

import copy
import functools
import io
import math
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from grafs_timm.activations.activation import FoundActivation
from grafs_timm.activations.genotype import Genotype

Make = Callable[[], nn.Module]
Pair = tuple[list[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Tolerance:
    """|error| ≤ tolerance · max|eager value| of each tensor."""

    outputs: float
    gradients: float


# Three statements, of which every check makes one.
EXACT = Tolerance(0.0, 0.0)  # the same operations in the same order
# The same float32 operations, fused, reordered or by another library's exp and erf: each is right to a few units of 2^-24,
# and some hundred are summed. A gradient meets a kink, or √'s slope of up to 500 at its floor, on the other side of a rounding.
FLOAT32 = Tolerance(1e-5, 1e-4)
# Half a unit of the dtype for each rounding, of which a few follow one another between two layers' sums.
HALF = {torch.bfloat16: Tolerance(2.0**-6, 2.0**-6), torch.float16: Tolerance(2.0**-9, 2.0**-9)}


@dataclass(frozen=True)
class Check:
    """``run(make, x)``: outputs and, of a training step, gradients, as (got, eager's); ``make`` gives the same model each time.

    ``how``: what is compared, for the reader of the table. ``needs``: packages that a check imports beyond the project's own.
    """

    name: str
    tolerance: Tolerance
    run: Callable[[Make, Tensor], tuple[Pair, Pair | None]]
    how: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """``error``: the largest |got − eager| ÷ max|eager| of the tensors compared; None where it failed, ``note`` says why."""

    check: str
    what: str
    error: float | None
    tolerance: float
    note: str = ""

    @property
    def holds(self) -> bool:
        return self.error is not None and self.error <= self.tolerance


def perform(check: Check, make: Make, x: Tensor, slope: float = 1.0) -> list[Outcome]:
    """One outcome for the outputs and one for the gradients, or one that says what was raised.

    ``slope``: the largest |f′| of the activation, which multiplies the tolerance of the gradients where it is above 1.
    """
    allowed = check.tolerance.gradients * max(1.0, slope)
    torch._dynamo.reset()  # the recompilations of one model's code would count for the next
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outputs, gradients = check.run(make, x)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        note = f"{type(error).__name__}: {lines[0][:160]}"
        return [Outcome(check.name, "outputs", None, check.tolerance.outputs, note)]
    found = [Outcome(check.name, "outputs", _apart(*outputs), check.tolerance.outputs)]
    if gradients is not None:
        found.append(Outcome(check.name, "gradients", _apart(*gradients), allowed))
    return found


def _apart(got: list[Tensor], eager: list[Tensor]) -> float:
    """Infinite where a value is not finite or a tensor has another shape.

    A tensor a thousand times smaller than the largest counts as that thousandth: a bias before a normalisation, or of an
    attention's keys, has nothing but rounding for a gradient.
    """
    worst, least = 0.0, 1e-3 * max(float(b.detach().abs().max()) for b in eager)
    for a, b in zip(got, eager, strict=True):
        a, b = a.detach().double(), b.detach().double()
        if a.shape != b.shape or not (a.isfinite().all() and b.isfinite().all()):
            return math.inf
        if not torch.equal(a, b):
            worst = max(worst, float((a - b).abs().max()) / max(float(b.abs().max()), least))
    return worst


def step(model: nn.Module, x: Tensor, call: Callable[[Tensor], Tensor] | None = None) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and the gradients of every weight and of x for a fixed loss of the outputs; zeros where there is none."""
    x = x.detach().requires_grad_()
    model.zero_grad()
    y = model(x) if call is None else call(x)
    loss = torch.linspace(-1, 1, y.numel()).view(y.shape) * y.float()
    loss.sum().backward()
    return [y.detach()], [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in (*model.parameters(), x)]


def _infer(model: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [model(x)]


def _trained(got: tuple[list[Tensor], list[Tensor]], eager: tuple[list[Tensor], list[Tensor]]) -> tuple[Pair, Pair]:
    return (got[0], eager[0]), (got[1], eager[1])


def _compile(make: Make, x: Tensor) -> tuple[Pair, Pair]:
    model, other = make(), make()
    return _trained(step(other, x, torch.compile(other, fullgraph=True)), step(model, x))


def _export(make: Make, x: Tensor) -> tuple[Pair, None]:
    model = make().eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    exported, more = torch.export.load(buffer).module(), torch.cat([x, -x, x])
    return (_infer(exported, more), _infer(model, more)), None


def _onnx(make: Make, x: Tensor) -> tuple[Pair, None]:
    import onnxruntime

    model = make().eval()
    program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), options)
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return ([torch.from_numpy(y)], _infer(model, x)), None


def _script(make: Make, x: Tensor) -> tuple[Pair, Pair]:
    model, buffer = make(), io.BytesIO()
    torch.jit.save(torch.jit.script(make()), buffer)
    buffer.seek(0)
    scripted = torch.jit.load(buffer)
    for _ in range(2):  # the third run is the optimised one
        step(scripted, x)
        step(model, x)
    return _trained(step(scripted, x), step(model, x))


class _Rounded(nn.Module):
    """f in float64 and rounded once to the dtype of its input: what a found activation has to give in 16 bits."""

    def __init__(self, genotype: Genotype) -> None:
        super().__init__()
        self.genotype = genotype

    def forward(self, x: Tensor) -> Tensor:
        top = torch.finfo(x.dtype).max
        return self.genotype(x.double()).clamp(-top, top).to(x.dtype)


def _exactly(model: nn.Module) -> nn.Module:
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, FoundActivation):
                setattr(parent, name, _Rounded(child.genotype))
    return model


def _autocast(dtype: torch.dtype, make: Make, x: Tensor) -> tuple[Pair, Pair]:
    def run(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        def call(x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=dtype):
                y: Tensor = model(x)
            return y

        return step(model, x, call)

    return _trained(run(make()), run(_exactly(make())))


def _channels_last(make: Make, x: Tensor) -> tuple[Pair, Pair]:
    other = make().to(memory_format=torch.channels_last)
    return _trained(step(other, x.to(memory_format=torch.channels_last)), step(make(), x))


def _checkpointing(make: Make, x: Tensor) -> tuple[Pair, Pair]:
    other = make()
    other.set_grad_checkpointing(True)
    return _trained(step(other, x), step(make(), x))


def _ema(make: Make, x: Tensor) -> tuple[Pair, None]:
    model = make()
    average = ModelEmaV3(model, decay=0.0)  # which follows at once
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    average.update(model)
    return (_infer(average.module.eval(), x), _infer(model.eval(), x)), None


def _deepcopy(make: Make, x: Tensor) -> tuple[Pair, Pair]:
    model = make()
    return _trained(step(copy.deepcopy(model), x), step(model, x))


def _pickle(make: Make, x: Tensor) -> tuple[Pair, Pair]:
    model = make()
    return _trained(step(pickle.loads(pickle.dumps(model)), x), step(model, x))


def _torch_save(make: Make, x: Tensor) -> tuple[Pair, Pair]:
    model, buffer = make(), io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return _trained(step(torch.load(buffer, weights_only=False), x), step(model, x))  # written three lines above


@contextmanager
def _one_process() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=(Path(folder) / "meet").as_uri(), rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def _ddp(make: Make, x: Tensor) -> tuple[Pair, Pair]:
    other = make()
    with _one_process():
        got = step(other, x, DistributedDataParallel(other))
    return _trained(got, step(make(), x))


_ONNX = ("onnx", "onnxscript", "onnxruntime")
_ROUNDED = "training step, against f in float64 rounded once"

CHECKS = {
    check.name: check
    for check in (
        Check("torch.compile", FLOAT32, _compile, "training step, inductor, one graph"),
        Check("torch.export", FLOAT32, _export, "inference, saved and loaded, batch left open"),
        Check("onnx", FLOAT32, _onnx, "inference, the dynamo exporter, run in onnxruntime", _ONNX),
        Check("torch.jit.script", FLOAT32, _script, "training step, saved and loaded, third run"),
        Check("autocast bf16", HALF[torch.bfloat16], functools.partial(_autocast, torch.bfloat16), _ROUNDED),
        Check("autocast fp16", HALF[torch.float16], functools.partial(_autocast, torch.float16), _ROUNDED),
        Check("channels_last", FLOAT32, _channels_last, "training step"),
        Check("checkpointing", EXACT, _checkpointing, "training step, model.set_grad_checkpointing()"),
        Check("ModelEmaV3", EXACT, _ema, "inference, after an update"),
        Check("deepcopy", EXACT, _deepcopy, "training step"),
        Check("pickle", EXACT, _pickle, "training step"),
        Check("torch.save", EXACT, _torch_save, "training step, the whole model"),
        Check("DDP", EXACT, _ddp, "training step, gloo, one process"),
    )
}  # fmt: skip
