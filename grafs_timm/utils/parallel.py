"""Run one search or training in several processes that torchrun starts.

Rank 0 writes the run's files and prints. Gradients are averaged in one all-reduce; plain values and checkpoints are sent as
bytes over gloo and loaded with ``weights_only``. With one process nothing here has an effect.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import GrafsError, RunError

_T = TypeVar("_T")

# Groups are kept until the interpreter ends. Otherwise DistributedDataParallel, freed last, would join the group's threads
# while it holds the GIL, which they need to free their tensors: a deadlock.
_ended: list[Any] = []


def _number(variable: str) -> int:
    text = os.environ.get(variable, "")
    if not text.isdigit():
        what = f"is {text!r}" if text else "is not set"
        raise RunError(f"{variable} {what} though WORLD_SIZE is {os.environ['WORLD_SIZE']}; start with torchrun or unset both")
    return int(text)


def launched() -> int:
    """Return torchrun's WORLD_SIZE, 1 without it. Raises RunError if it is not a number."""
    return _number("WORLD_SIZE") if os.environ.get("WORLD_SIZE", "1") != "1" else 1


def restarted() -> bool:
    """Check whether torchrun restarted this process after a failure (``--max-restarts``)."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def world() -> int:
    """Return the number of processes in the group, 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's rank in the group, 0 without one."""
    return dist.get_rank() if world() > 1 else 0


def is_main() -> bool:
    """Check whether this process writes and prints for all, also before and after the group exists."""
    return rank() == 0 if world() > 1 else launched() == 1 or _number("RANK") == 0


def own_seed(seed: int) -> int:
    """Return the seed of this rank's own draws: ``seed`` itself on rank 0, another stream on every other rank."""
    if rank() == 0:
        return seed
    return int(np.random.SeedSequence([seed, rank()]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def own_device(device: str) -> str:
    """Return the device of this process: cuda:LOCAL_RANK if several run on "cuda". Raises RunError if there is none."""
    kind, _, index = device.partition(":")
    if launched() == 1 or kind != "cuda":
        return device
    local, count = _number("LOCAL_RANK"), torch.cuda.device_count()
    if index not in ("", str(local)):
        raise RunError(f"device {device!r}: each of several processes takes a GPU of its own; give cuda")
    if local >= count:
        raise RunError(f"process {local} of this machine has no GPU of its own; start torchrun with --nproc_per_node {count}")
    return f"cuda:{local}"


@functools.cache
def _store() -> dist.Store:
    # torchrun's agents hold the store; without them rank 0 does, by RANK and MASTER_ADDR
    store, *_ = next(iter(dist.rendezvous("env://")))
    return dist.PrefixStore(f"grafs_timm/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


@contextlib.contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the group of processes that torchrun started; as a context manager it yields the device of this process.

    Uses gloo on CPU, and nccl for tensors on CUDA. A group that exists already is used and not ended. After an error the group
    stays as it is, so end the process.

    Raises:
        RunError: Contact with another process is lost.
    """
    if world() > 1 or launched() == 1:
        yield device
        return
    device, place, count = own_device(device), _number("RANK"), launched()
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo", store=dist.PrefixStore("group", _store()), rank=place, world_size=count
        )
        yield device
        gather(None)  # no process may leave while another still needs it
    except RuntimeError as error:
        if isinstance(error, GrafsError) or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise RunError(
            f"contact with another process of this run was lost ({str(error).splitlines()[0][:200]}); resume it from its last "
            "checkpoint with --resume, or let torchrun --max-restarts do so"
        ) from error
    _ended.append(dist.group.WORLD)
    dist.destroy_process_group()


def first_to_say(say: Callable[[], None]) -> None:
    """Call ``say`` in the first of several processes that end with an error; the others wait for it."""
    store = None
    with contextlib.suppress(RuntimeError):  # if the others cannot be reached, every process calls it
        if launched() > 1:
            store = _store()
            if store.add("errors", 1) > 1:
                with contextlib.suppress(RuntimeError):
                    store.wait(["said"], timedelta(seconds=10))  # if it ended now, torchrun might stop the first one
                return
    say()
    if store is not None:
        with contextlib.suppress(RuntimeError):
            store.set("said", "yes")


def mean_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the ranks, in place, by one all-reduce.

    A NaN or infinity on one rank is one on all ranks afterwards, so that all decide alike.

    Args:
        tensors: Floating tensors on one device, in the same order and of the same shapes on every rank.
    """
    if world() == 1:
        return
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(part.view_as(tensor))


def broadcast(module: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0's ``module``."""
    if world() == 1:
        return
    for tensor in module.state_dict().values():
        whole = tensor.detach().contiguous()
        dist.broadcast(whole, 0)
        tensor.detach().copy_(whole)


def replicate(model: nn.Module, idle: bool = False) -> nn.Module:
    """Wrap a model in DistributedDataParallel; with one process return it unchanged.

    Every rank starts from rank 0's weights; BatchNorm's running statistics are rank 0's.

    Args:
        model: The model.
        idle: Some weights are unused in some steps, and DistributedDataParallel must look for them.
    """
    if world() == 1:
        return model
    device = next(model.parameters()).device
    # a 1×1 convolution's gradient may have other strides than its weight; it is copied
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None, find_unused_parameters=idle)


def apart(network: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Keep gradients of forward and backward inside on this rank, for all micro-batches but the last."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else contextlib.nullcontext()


def gather(value: Any) -> list[Any]:
    """Return every rank's ``value`` (tensors and plain values, as in a checkpoint), in the order of ranks, on every rank."""
    if world() == 1:
        return [value]
    data = _packed(value)
    sizes = [torch.zeros(1, dtype=torch.int64, device="cpu") for _ in range(world())]
    dist.all_gather(sizes, torch.tensor([len(data)], device="cpu"))
    longest = max(int(size) for size in sizes)
    parts = [torch.zeros(longest, dtype=torch.uint8, device="cpu") for _ in sizes]
    dist.all_gather(parts, torch.cat([data, data.new_zeros(longest - len(data))]))
    return [_unpacked(part[: int(size)]) for part, size in zip(parts, sizes, strict=True)]


def from_main(make: Callable[[], _T]) -> _T:
    """Return on all ranks what ``make()`` returns on rank 0 (tensors on the CPU, plain values), or raise its GrafsError."""
    if world() == 1:
        return make()
    result: dict[str, Any] = {}
    failure: GrafsError | None = None
    if is_main():
        try:
            result = {"value": make()}
        except GrafsError as error:
            failure, result = error, {"error": str(error)}
    data = _packed(result)
    size = torch.tensor([len(data)], device="cpu")
    dist.broadcast(size, 0)
    data = data if is_main() else torch.zeros(int(size), dtype=torch.uint8, device="cpu")
    dist.broadcast(data, 0)
    result = _unpacked(data)
    if "error" in result:
        raise failure or RunError(result["error"])
    return result["value"]


def check_same(state: Mapping[str, Any], when: str) -> None:
    """Raise RunError on every rank where a value in ``state`` is not bitwise the same on all.

    Args:
        state: Tensors and plain values, in nested dicts. The message gives the path of the first that differs.
        when: Says when, for the message.
    """
    if world() == 1:
        return
    everyone = gather(dict(_digests(state, "")))
    for name in dict.fromkeys(name for theirs in everyone for name in theirs):
        ranks = [place for place, theirs in enumerate(everyone) if theirs.get(name) != everyone[0].get(name)]
        if ranks:
            where = f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
            raise RunError(f"{name} is not the same everywhere {when}: {where} and rank 0 differ; all ranks must step alike")


def _digests(state: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for key, value in state.items():
        if isinstance(value, Mapping):
            yield from _digests(value, f"{path}{key}.")
            continue
        content = repr(value).encode()
        if isinstance(value, Tensor):
            whole = value.detach().cpu().reshape(-1)
            content = f"{value.dtype}{list(value.shape)}".encode() + whole.view(torch.uint8).numpy().tobytes()
        yield f"{path}{key}", hashlib.sha256(content).hexdigest()


def _packed(value: Any) -> Tensor:
    file = io.BytesIO()
    torch.save(value, file)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)


def _unpacked(data: Tensor) -> Any:
    return torch.load(io.BytesIO(data.numpy().tobytes()), map_location="cpu", weights_only=True)
