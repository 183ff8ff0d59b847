"""Several processes on one run, as torchrun starts them: who each is, what they share, and how they end.

Rank 0 keeps the run's files and speaks for all. Gradients meet in one all-reduce; plain values and checkpoints travel as
bytes over gloo, read without running anything. With one process nothing here has an effect, so that such a run computes
what it would without this file.
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

# Groups are kept until the interpreter ends. DistributedDataParallel, freed last, would end the group's threads and wait for
# them with Python's lock in hand, which they need to free what they carried: both would wait for ever.
_ended: list[Any] = []


# ------------------------------------------------------------------------------------------------ who this process is


def _number(variable: str) -> int:
    text = os.environ.get(variable, "")
    if not text.isdigit():
        what = f"is {text!r}" if text else "is not set"
        raise RunError(f"{variable} {what} though WORLD_SIZE is {os.environ['WORLD_SIZE']}; start with torchrun or unset both")
    return int(text)


def launched() -> int:
    """How many processes the environment speaks of (torchrun's WORLD_SIZE); 1 where there is none. RunError for nonsense."""
    return _number("WORLD_SIZE") if os.environ.get("WORLD_SIZE", "1") != "1" else 1


def restarted() -> bool:
    """Whether torchrun started this process anew after one had failed (``--max-restarts``)."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def world() -> int:
    """Processes in the group, 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's place in the group, 0 without one."""
    return dist.get_rank() if world() > 1 else 0


def is_main() -> bool:
    """Whether this process writes and prints for all, also before the group is there and after it is gone."""
    return rank() == 0 if world() > 1 else launched() == 1 or _number("RANK") == 0


def own_seed(seed: int) -> int:
    """The seed of this rank's own draws: ``seed`` itself on rank 0, another stream on each other."""
    if rank() == 0:
        return seed
    return int(np.random.SeedSequence([seed, rank()]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def own_device(device: str) -> str:
    """The device of this process: of several on «cuda» each takes cuda:LOCAL_RANK. RunError where it has none."""
    kind, _, index = device.partition(":")
    if launched() == 1 or kind != "cuda":
        return device
    local, count = _number("LOCAL_RANK"), torch.cuda.device_count()
    if index not in ("", str(local)):
        raise RunError(f"device {device!r}: of several processes each takes a GPU of its own; give cuda")
    if local >= count:
        raise RunError(f"process {local} of this machine has no GPU of its own; start torchrun with --nproc_per_node {count}")
    return f"cuda:{local}"


# --------------------------------------------------------------------------------------------------- beginning and end


@functools.cache
def _store() -> dist.Store:
    # torchrun's agents keep the store; without them rank 0 does, as RANK and MASTER_ADDR say
    store, *_ = next(iter(dist.rendezvous("env://")))
    return dist.PrefixStore(f"grafs_timm/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


@contextlib.contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the processes torchrun started for as long as the block runs; yields the device of this one.

    gloo on CPU; on CUDA nccl for what lies there. A group that the caller has made already is used and left alone. RunError
    where contact with another process is lost. After an error the group stays as it is: end the process.
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
        gather(None)  # none may leave while another still waits for its words
    except RuntimeError as error:
        if isinstance(error, GrafsError) or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise RunError(
            f"contact with another process of this run was lost ({str(error).splitlines()[0][:200]}); from its last "
            "checkpoint it resumes with --resume, or by itself under torchrun --max-restarts"
        ) from error
    _ended.append(dist.group.WORLD)
    dist.destroy_process_group()


def first_to_say(say: Callable[[], None]) -> None:
    """Of several processes that end with an error the first calls ``say``; the others wait until it has."""
    store = None
    with contextlib.suppress(RuntimeError):  # also where the others cannot be reached: then each speaks for itself
        if launched() > 1:
            store = _store()
            if store.add("errors", 1) > 1:
                with contextlib.suppress(RuntimeError):
                    store.wait(["said"], timedelta(seconds=10))  # ending sooner, torchrun might stop the one that speaks
                return
    say()
    if store is not None:
        with contextlib.suppress(RuntimeError):
            store.set("said", "yes")


# -------------------------------------------------------------------------------------------------- what they share


def mean_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the ranks, in place: one all-reduce of all of them laid end to end.

    Floating tensors of one device, in the same order and of the same shapes on every rank. What is NaN or infinite on one
    rank is so on all afterwards: whoever decides by it decides alike.
    """
    if world() == 1:
        return
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(part.view_as(tensor))


def broadcast(module: nn.Module) -> None:
    """Give every rank the parameters and buffers that rank 0's ``module`` has."""
    if world() == 1:
        return
    for tensor in module.state_dict().values():
        whole = tensor.detach().contiguous()
        dist.broadcast(whole, 0)
        tensor.detach().copy_(whole)


def replicate(model: nn.Module, idle: bool = False) -> nn.Module:
    """``model`` in DistributedDataParallel, which averages the weights' gradients in backward; itself with one process.

    ``idle``: some weights take no part in some steps, and are looked for in each. Every rank begins with rank 0's weights,
    and BatchNorm's running statistics are rank 0's.
    """
    if world() == 1:
        return model
    device = next(model.parameters()).device
    # a 1×1 convolution's gradient may lie otherwise in memory than its weight: a copy, not an error
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None, find_unused_parameters=idle)


def apart(network: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Forward and backward inside leave a replica's gradients to the rank alone: of micro-batches only the last shares."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else contextlib.nullcontext()


def gather(value: Any) -> list[Any]:
    """Each rank's ``value`` (tensors and plain values, as a checkpoint takes them), in the order of ranks, on every rank."""
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
    """What ``make()`` returns on rank 0 (tensors on the CPU, plain values), on every rank. Its GrafsError is raised on all."""
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
    """RunError, on every rank, where a tensor or plain value in ``state`` is not the same bits on all of them.

    Dicts in ``state`` may lie in one another; the message gives the path of the first that differs, and on which ranks.
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
