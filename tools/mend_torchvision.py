"""Let torchvision import beside a CPU-only torch: run with a virtual environment's own Python, mends that one alone.

    .venv/bin/python tools/mend_torchvision.py

An index that offers a CPU build of torch but only the CUDA-linked wheel of torchvision leaves an environment in which
`import torchvision`, and with it timm, ends in «operator torchvision::nms does not exist»: torchvision's compiled
library cannot be loaded there, and the library is what declares its operators. Nothing here calls those operators,
their declaration is enough. So two small files go into the environment's site-packages: a `.pth`, and the module it
names, which declares `nms` and `qnms` just before torchvision is first imported. They cost nothing before that, and
step back as soon as torchvision's own library loads.

Where torchvision imports, or fails for another reason, or torch was built with CUDA, nothing is written.
Exit status: 0 where torchvision imports in the end, 1 where it doesn't.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

MODULE = "_torchvision_cpu_schemas"
SYMPTOM = "operator torchvision::nms does not exist"

SOURCE = '''\
"""Declares torchvision's nms and qnms beside a CPU-only torch. Written by tools/mend_torchvision.py; may be deleted."""

import sys


class _BeforeTorchvision:
    """Finds nothing; acts once, on the first import of torchvision."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(cls)
            _declare()
        return None


def _declare():
    import importlib.util

    try:
        import torch

        if torch.version.cuda is not None:
            return
        found = importlib.util.find_spec("torchvision")
        folder = found.submodule_search_locations[0]
    except (ImportError, AttributeError, TypeError, IndexError):
        return  # torchvision's own error says it better
    try:
        torch.ops.load_library(folder + "/_C.so")
        return  # a torchvision that fits: it declares its operators itself
    except (OSError, ImportError):
        pass
    global _library  # the declarations live as long as this object
    from torch import library

    _library = library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, _BeforeTorchvision)
'''

_PROBE = "import torch; print('cuda' if torch.version.cuda else 'cpu', flush=True); import torchvision"


def diagnose() -> tuple[str, str]:
    """What importing torchvision does under this Python: a verdict, and the last line of the error where there is one.

    Verdicts: «fine»; «mendable», a CPU-only torch and the symptom above; «other», any other failure.
    """
    probe = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, encoding="utf-8", errors="replace", check=False)
    if probe.returncode == 0:
        return "fine", ""
    said = probe.stderr.strip().splitlines()[-1:] or [f"Python ended with status {probe.returncode}"]
    mendable = probe.stdout.split() == ["cpu"] and SYMPTOM in probe.stderr
    return "mendable" if mendable else "other", said[0]


def write(site_packages: Path) -> list[Path]:
    """Put the module and its .pth into ``site_packages``; the .pth last, so that it never names a module not there."""
    module, pth = site_packages / f"{MODULE}.py", site_packages / f"{MODULE}.pth"
    module.write_text(SOURCE, encoding="utf-8")
    pth.write_text(f"import {MODULE}\n", encoding="utf-8")
    return [module, pth]


def main() -> int:
    if sys.prefix == sys.base_prefix:
        print("mend_torchvision: this Python is no virtual environment's, and only such a one is mended", file=sys.stderr)
        return 1
    verdict, said = diagnose()
    if verdict == "mendable":
        written = write(Path(sysconfig.get_path("purelib")))
        verdict, said = diagnose()
        if verdict == "fine":
            print("torchvision is linked to CUDA, torch is CPU-only: declared torchvision's operators in this environment")
        else:
            for path in written:  # no help: leave the environment as it was
                path.unlink()
    if verdict != "fine":
        print(f"torchvision does not import here: {said}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
