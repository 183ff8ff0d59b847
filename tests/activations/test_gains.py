"""Gains under a standard normal input."""

import math
import os
import subprocess
import sys

import pytest
import torch
from timm.models.nfnet import _nonlin_gamma
from torch import nn

from grafs_timm.activations.gains import gain
from grafs_timm.errors import GrafsError


def test_closed_forms():
    assert gain(nn.Identity()) == pytest.approx(1, abs=1e-9)
    assert gain(nn.ReLU()) == pytest.approx(1 / math.sqrt(0.5 - 0.5 / math.pi), abs=1e-6)
    assert gain(torch.square) == pytest.approx(1 / math.sqrt(2), abs=1e-6)


@pytest.mark.parametrize(("name", "layer"), [("relu", nn.ReLU), ("gelu", nn.GELU), ("silu", nn.SiLU), ("elu", nn.ELU)])
def test_near_timms_sampled_constants(name, layer):
    assert gain(layer()) == pytest.approx(_nonlin_gamma[name], rel=2e-3)


@pytest.mark.parametrize("function", [torch.ones_like, lambda z: z / 0])
def test_no_variance_is_an_error(function):
    with pytest.raises(GrafsError, match="variance"):
        gain(function)


def test_no_operation_starts_threads():
    """A process that has computed every zoo name's gain, as an import does, can still be forked."""
    script = """
import os, torch, timm
before = len(os.listdir("/proc/self/task"))
from grafs_timm.activations import genotype as genotypes, gains, ops
x = genotypes.Gene("identity")
for op in ops.OPS[1].values():
    gene = genotypes.Gene(op.name, 1.0) if op.has_gamma else genotypes.Gene(op.name)
    if op.name != "const":
        gains.gain(genotypes.Genotype(x, x, genotypes.Gene("left"), gene, x, genotypes.Gene("left")))
print(len(os.listdir("/proc/self/task")) - before)
"""
    env = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, encoding="utf-8")
    assert done.stdout.strip() == "0", done.stdout + done.stderr
