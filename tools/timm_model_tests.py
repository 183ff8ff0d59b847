"""Run timm's own model tests with a zoo activation in every model: one small architecture per module of timm.

git clone --depth 1 https://github.com/huggingface/pytorch-image-models
python tools/timm_model_tests.py pytorch-image-models/tests/test_models.py [-k forward] [any pytest option]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import is_model_in_modules

import grafs_timm

ACTIVATION = "grafs_resnet"
# tests that download weights
ONLINE = ("test_model_inference", "test_model_load_pretrained", "test_model_features_pretrained")
# no activation can be put in: the place is part of the normalisation
UNREACHED = ("ese_vovnet39b_evos", "resnetv2_50d_evos", "resnetv2_50d_frn")


def chosen() -> dict[str, str]:
    """Module of timm.models -> its architecture with the fewest parameters."""
    return {module: min(sizes, key=lambda n: sizes[n]) for module in timm.list_modules() if (sizes := dict(_sizes(module)))}


def _sizes(module: str) -> Iterator[tuple[str, int]]:
    for name in timm.list_models(module=module):
        if is_model_in_modules(name, [module]) and not name.startswith("cifar_") and name not in UNREACHED:
            with torch.device("meta"):
                yield name, sum(p.numel() for p in timm.create_model(name).parameters())


class Plugin:
    """Puts the activation in where timm's tests build a model, and keeps the chosen architectures only."""

    def __init__(self) -> None:
        self.names = set(chosen().values())
        self.built = 0
        self.timms = timm.create_model
        timm.create_model = self.create_model

    def create_model(self, name: str, *args: Any, **settings: Any) -> torch.nn.Module:
        model = self.timms(name, *args, **settings)
        report = grafs_timm.replace_activations(model, ACTIVATION)
        assert report.replaced
        self.built += 1
        return model

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        def is_kept(item: pytest.Item) -> bool:
            params = getattr(getattr(item, "callspec", None), "params", {})
            name = str(params.get("model_name", "")).split(".")[0]
            return name in self.names and not item.name.startswith(ONLINE)

        config.hook.pytest_deselected(items=[item for item in items if not is_kept(item)])
        items[:] = [item for item in items if is_kept(item)]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.write_line(f"{len(self.names)} architectures; {self.built} models built with {ACTIVATION} in")


if __name__ == "__main__":
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
        sys.exit(str(__doc__))
    sys.exit(pytest.main(["-q", "-rfE", "-p", "no:cacheprovider", *sys.argv[1:]], plugins=[Plugin()]))
