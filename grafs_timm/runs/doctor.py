"""Examine the installation: what is there, what follows from it for runs, what is wrong, and how to cure that.

Every part is examined for itself, so that what is broken hides no other. Nothing is compiled, downloaded or sent, and nothing
is written but a small file in each folder that has to be writable, which is gone at once.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import GrafsError, first_line
from ..utils import hardware, resources, version
from ..utils.diagnosis import Diagnosis, Section, examine

_FOR = {
    "wandb": "to mirror runs in W&B", "export": "for ONNX", "ray": "for --launcher ray", "gpt": "for the small GPTs",
    "hf-data": "for Hugging Face data sets on disk",
}  # fmt: skip
_IMPORTED = {  # what is tried, in this order, and what to do where it fails
    "torch": "pip install --force-reinstall torch, from https://pytorch.org/get-started/locally",
    "torchvision": "install torch and torchvision from one index, or run tools/mend_torchvision.py of the checkout",
    "timm": "pip install --force-reinstall timm",
    "grafs_timm.models.timm_names": "pip install -U timm",
}
_COMPILED_CURE = "export TORCHINDUCTOR_CACHE_DIR=FOLDER"
_DATA_CURE = (
    "give --data the path of a folder of images or of shards, or the name of one in $GRAFS_TIMM_DATA or ./data. "
    "To pack another source: grafs-timm data pack SOURCE OUT"
)


def diagnose(data: str | None = None) -> Diagnosis:
    """Examine the installation, this machine and the current folder.

    Args:
        data: A name of ``--data`` to look up too.

    Returns:
        Sections of facts and findings; ``works`` is false where the package cannot be used.

    >>> found = diagnose()
    >>> found.works, found.sections[0].title
    (True, 'versions')
    """
    parts: dict[str, Callable[[Section], None]] = {
        "versions": _versions, "processor": _processor, "compiler": _compiler, "GPU": _gpu, "folders": _folders,
        "W&B": _wandb, "data": partial(_data, asked=data), "zoo": _zoo,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a warning would say is a finding here
        return examine(parts)


# ------------------------------------------------------------------------------------------------------ what is installed


def _versions(section: Section) -> None:
    here = Path(__file__).resolve().parents[1]
    section.facts |= {"python": platform.python_version(), version.NAME: f"{version.own()} ({here})"}
    if version.own() == "unknown":
        section.advice("this copy of the source is not installed, so versions cannot be compared", "pip install -e .")
    for each in version.needed():
        if each.extra is None:
            _required(section, each)
        else:
            _optional(section, each)
    for module, cure in _IMPORTED.items():
        try:
            found = importlib.import_module(module)
            if module in section.facts:
                section.facts[module] = found.__version__  # with the build, such as +cu130
        except Exception as error:  # whatever a damaged library raises
            if isinstance(error, OSError) and error.filename:  # torch makes the folder of its compiler when it is imported
                cure = f"let {error.filename} be written; another folder for torch's compiler: {_COMPILED_CURE}"
            section.broken(f"import {module} fails: {first_line(error)}", cure)
            return  # those that follow import it too


def _required(section: Section, each: version.Needed) -> None:
    cure = f"pip install '{each.name}{each.wanted}'"
    if each.name in _IMPORTED:
        section.facts[each.name] = each.there
    if each.there is None:
        section.broken(f"{each.name} is not installed", cure)
    elif not each.fits:
        section.problem(f"{each.name} {each.there} is installed, and {each.wanted} is needed", cure)


def _optional(section: Section, each: version.Needed) -> None:
    purpose = _FOR.get(each.extra or "", "")
    cure = f"pip install -U '{version.NAME}[{each.extra}]'"
    section.facts[each.name] = each.there or f"not installed; {purpose}: {cure}"
    if each.there and not each.fits:
        section.problem(f"{each.name} {each.there} is installed, and {each.wanted} is needed {purpose}", cure)


# ------------------------------------------------------------------------------------------------------------ the machine


def _processor(section: Section) -> None:
    import torch

    from ..config.schema import Recipe
    from . import fitting

    section.facts |= {"processor": hardware.processor(), "bfloat16": "native" if hardware.has_bf16() else "emulated"}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for model in ("cifar_resnet20", "cifar_vit_tiny"):  # one of convolutions, one of linear layers
        _, why = fitting.fit(
            Recipe.model_validate({"model": model, "data": "digits", "amp": "auto", "channels_last": "auto"}), device
        )
        section.facts["amp: auto"] = why["amp"]
        section.facts.setdefault("channels_last: auto", []).append(why["channels_last"])
    if device == "cpu" and not hardware.has_bf16():
        cure = "--set amp=auto, which uses it only where it is fast, or amp=off"
        section.advice("bfloat16 is emulated, many times slower than float32", cure)
    threads, there = torch.get_num_threads(), hardware.processors()
    section.facts |= {"threads": threads, "processors": there, "allocator": hardware.keeps_pages() or "glibc's, as it comes"}
    if threads > max(there, 1):
        fewer = max(int(there), 1)
        what = f"torch uses {threads} threads on {there:g} processors, which wait for one another"
        section.advice(what, f"export OMP_NUM_THREADS={fewer}")
    if device == "cpu" and not hardware.keeps_pages():
        settings = " ".join(f"{name}={value}" for name, value in hardware.ALLOCATOR.items())
        what = "the allocator returns large tensors to the system in every step (measured in benchmarks/README.md)"
        section.advice(what, f"export {settings}")


def _compiler(section: Section) -> None:
    from ..kernels import cpu
    from ..utils import compiled

    found = compiled.find_compiler()
    section.facts["C++ compiler"] = f"{found[0]}: {found[1]}" if found else None
    use = found and not compiled.plain_only
    section.facts["loops on a CPU"] = f"C++, vector instructions: {cpu.vectors()}" if use else compiled.WITHOUT
    if not found:
        named = f" (CXX={os.environ['CXX']})" if os.environ.get("CXX") else ""
        section.problem(
            f"no C++ compiler was found{named}: found functions and searches on a CPU run as {compiled.WITHOUT}",
            f"{compiled.INSTALL} (apt-get install g++; conda install gxx), or name yours: export CXX=PATH",
        )
    if compiled.plain_only:
        section.advice(f"GRAFS_TIMM_COMPILE=0 switches compiling off: {compiled.WITHOUT}", "unset GRAFS_TIMM_COMPILE")


def _gpu(section: Section) -> None:
    import torch

    kinds = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    built = next((f"{kind} {number}" for kind, number in kinds.items() if number), None)
    section.facts["torch is built for"] = built or "CPUs"
    there = torch.cuda.is_available()
    section.facts["GPUs"] = [_card(number) for number in range(torch.cuda.device_count())] if there else []
    section.facts["Triton"] = version.installed("triton")
    if there and not version.installed("triton"):
        section.problem("Triton is missing: searches on a GPU run as plain torch, several times slower", "pip install triton")
    if not there and (shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists()):
        if not built:
            cure = "install torch and torchvision for CUDA: https://pytorch.org/get-started/locally"
            section.problem("there is an NVIDIA driver, but this torch is built for CPUs", cure)
        else:
            cure = f"see whether nvidia-smi lists it, CUDA_VISIBLE_DEVICES allows it and the driver is one for {built}"
            section.problem("there is an NVIDIA driver, but torch finds no GPU", cure)


def _card(number: int) -> str:
    import torch

    card = torch.cuda.get_device_properties(number)
    return f"cuda:{number} {card.name}, {card.total_memory / 2**30:.0f} GiB, compute capability {card.major}.{card.minor}"


def _folders(section: Section) -> None:
    section.add_folder("runs", lambda: "runs", "cd to a folder of yours, or give --out FOLDER")
    section.add_folder("temporary files", tempfile.gettempdir, "export TMPDIR=FOLDER")
    section.add_folder("pretrained weights", _pretrained, "export HF_HOME=FOLDER")
    section.add_folder("compiled loops", _compiled_loops, _COMPILED_CURE)
    section.add_folder("packed data and downloads", resources.cache, "export GRAFS_TIMM_CACHE=FOLDER")
    import torch

    if torch.cuda.is_available():
        section.add_folder("Triton's kernels", _triton_kernels, "export TRITON_CACHE_DIR=FOLDER")


def _compiled_loops() -> str:
    from torch._inductor.runtime.runtime_utils import default_cache_dir

    return os.environ.get("TORCHINDUCTOR_CACHE_DIR") or default_cache_dir()


def _triton_kernels() -> Path:
    return Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache")


def _pretrained() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE  # comes with timm

    return HF_HUB_CACHE


# --------------------------------------------------------------------------------------------------------- what runs need


def _wandb(section: Section) -> None:
    from . import wandb_mirror

    section.facts["installed"] = version.installed("wandb")
    key = wandb_mirror.key_from()
    section.facts |= {"server": wandb_mirror.server(), "key": f"from {key}" if key else None}
    try:
        mode = wandb_mirror.check_mode("auto")
    except GrafsError as error:
        section.facts["--wandb auto"] = None
        section.problem(str(error), "unset WANDB_MODE, or export WANDB_MODE=offline")
        return
    section.facts["--wandb auto"] = mode
    if wandb_mirror.server() is None:
        section.problem("W&B's server has no valid address", "unset WANDB_BASE_URL, or export WANDB_BASE_URL=https://HOST")
    if mode == "online" and not key:
        section.problem("W&B is to be online, and there is no key for its server", "wandb login, or export WANDB_MODE=offline")
    elif mode == "offline" and not key:
        cure = "wandb login for online ones, wandb sync FOLDER for those there are, or --wandb disabled"
        section.advice("without a key, runs are mirrored in files alone", cure)
    if folder := wandb_mirror.told("WANDB_DIR"):
        cure = "unset WANDB_DIR: W&B's files then go to the run's folder"
        section.add_folder("WANDB_DIR", lambda: Path(folder).expanduser(), cure)


def _data(section: Section, asked: str | None) -> None:
    from ..config.recipe import load_recipe
    from ..data import datasets

    told = os.environ.get(datasets.VARIABLE)
    section.facts |= {datasets.VARIABLE: told, "found": [f"{name}: {path}" for name, path in _named(datasets).items()]}
    if told and not Path(told).is_dir():
        section.problem(f"{datasets.VARIABLE}={told} is no folder", f"export {datasets.VARIABLE}=FOLDER_OF_DATA_SETS")
    wanted = {load_recipe(str(path)).data.name for path in sorted(resources.folder("recipes").glob("*.yaml"))}
    section.facts["data.name of recipes"] = [f"{name}: {_leads_to(name)}" for name in sorted(wanted)]
    if asked:
        try:
            section.facts[f"--data {asked}"] = _where(asked)
        except GrafsError as error:
            section.facts[f"--data {asked}"] = None
            section.problem(first_line(error), _DATA_CURE)


def _named(datasets: Any) -> dict[str, Path]:
    with contextlib.suppress(OSError):  # a folder that may not be read
        return datasets.EMBEDDED | datasets.named()
    return dict(datasets.EMBEDDED)


def _leads_to(name: str) -> str:
    try:
        return _where(name)
    except GrafsError:
        return "not here; give --data"


def _where(name: str) -> str:
    """Return where a name of ``--data`` leads. GrafsError where there is no such data."""
    from ..data import datasets, text_source
    from ..data.info import info_file

    if text_source.is_text(name):
        return str(text_source.find_file(name))
    place = datasets.whereabouts(name)
    if isinstance(place, str) or info_file(place):
        return str(place)
    return f"torchvision's, to be packed into {place}" if not place.is_dir() else f"{place}, to be packed into the cache"


def _zoo(section: Section) -> None:
    from ..activations.published import list_published
    from ..zoo import lookup

    try:
        section.facts["folder"] = str(resources.folder("zoo"))
        known, entries = lookup.names(), lookup.entries()
    except FileNotFoundError as error:
        section.broken(str(error), f"pip install --force-reinstall --no-deps {version.NAME}")
        return
    except GrafsError as error:
        section.problem(first_line(error), f"restore that file, or pip install --force-reinstall --no-deps {version.NAME}")
        return
    if taken := [name for name in known if lookup.is_stock(name)]:
        section.problem(
            f"timm has activations of its own named {', '.join(taken)}", "grafs_timm.act_layer(NAME) gives the zoo's"
        )
    section.facts |= {
        "entries": len(entries),
        "aliases": [f"{name} -> {entry.name}" for name, entry in known.items() if name != entry.name],
        "published functions": len(list_published()),
        "ledgers": [f"{path.parents[1].name}/{path.name}: {_lines(path)} lines" for path in resources.ledgers()],
    }


def _lines(ledger: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in ledger.glob("*.jsonl"))
