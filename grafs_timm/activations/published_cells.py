"""List the functions that the authors of GRAFS found, as genotypes by name.

They are facts about the functions in the authors' released material (Strack, Safari, Hutter 2024, arXiv 2408.06820); no
accuracy of theirs is known. ViT-tiny's seed 0 ended in GELU; a run whose nesting is not confirmed is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from .genotype import Gene, Genotype

SOURCE = "Strack, Safari, Hutter 2024 (GRAFS), arXiv 2408.06820"


@dataclass(frozen=True)
class Cell:
    """Hold one function and the authors' run that ended in it.

    Args:
        run: Network, data set, warm start and seeds.
        shape: The family of shapes that it belongs to, as in `published_table.SHAPES`.
        genotype: The function.
    """

    run: str
    shape: str
    genotype: Genotype


def _cell(run: str, shape: str, u1: str, u2: str, b1: str, u3: str, u4: str, b2: str, bound: float | None = None) -> Cell:
    """Make a cell of operations, each with its constant after a colon if it has one."""

    def gene(written: str) -> Gene:
        op, _, gamma = written.partition(":")
        return Gene(op, float(gamma) if gamma else None)

    return Cell(run, shape, Genotype(gene(u1), gene(u2), gene(b1), gene(u3), gene(u4), gene(b2), bound))


_X = "identity"
_WRN, _RESNET = "WRN-28-2, CIFAR-10, warm start ReLU", "ResNet-18, CIFAR-10, warm start"
_VIT, _GPT2 = "ViT-tiny, CIFAR-10", "GPT-2, OpenWebText"

CELLS: dict[str, Cell] = {
    "grafs2024_wrn": _cell(f"{_WRN}, seeds 0, 1, 3", "gated", _X, _X, "left", "relu", "gelu", "gate"),
    "grafs2024_wrn_s4": _cell(f"{_WRN}, seed 4", "gated", "relu", "gelu", "mix:-0.131389", "gelu", "gelu", "gate"),
    "grafs2024_resnet18_s0": _cell(f"{_RESNET} ReLU, seeds 0, 1", "gated", _X, _X, "left", "gelu", "gelu", "gate"),
    "grafs2024_resnet18_s2": _cell(f"{_RESNET} ReLU, seed 2", "gated", "gelu", _X, "left", "leaky_relu", "leaky_relu", "gate"),
    "grafs2024_resnet18_s3": _cell(f"{_RESNET} ReLU, seed 3", "one-sided", "gelu", "gelu", "gate", "relu", _X, "left"),
    "grafs2024_resnet18_s4": _cell(f"{_RESNET} ReLU, seed 4", "one-sided", "relu", _X, "left", "gelu", "relu", "gate"),
    "grafs2024_resnet18_gelu_s0": _cell(
        f"{_RESNET} GELU, seed 0", "gated", "leaky_relu", "relu", "gate", "gelu", "gelu", "gate"
    ),
    "grafs2024_resnet18_gelu_s1": _cell(f"{_RESNET} GELU, seed 1", "gated", "gelu", _X, "left", "gelu", "gelu", "gate"),
    "grafs2024_resnet18_c100": _cell(
        "ResNet-18, CIFAR-100, warm start ELU", "exponential", _X, _X, "left", "relu", "elu", "gate"
    ),
    "grafs2024_vit": _cell(
        f"{_VIT}, seed 1", "gated", "square", "gelu", "mix:-0.235888", "gelu", "silu", "mix:-0.407966", 10.0
    ),
    "grafs2024_vit_s2": _cell(f"{_VIT}, seed 2", "gated", "silu", "square", "gate", "silu", "silu", "mix:-0.274103", 10.0),
    "grafs2024_vit_b": _cell(f"{_VIT}, other settings", "gated", "silu", "silu", "gate", "gelu", "silu", "min"),
    "grafs2024_vit_c": _cell(
        f"{_VIT}, other settings", "gated", "square", "silu", "mix:-0.236699", "silu", "silu", "mix:-0.234266", 10.0
    ),
    "grafs2024_vit_d": _cell(
        f"{_VIT}, other settings", "gated", "silu", "silu", "gate", "square", "silu", "mix:-0.07123", 10.0
    ),
    "grafs2024_gpt": _cell("nanoGPT, TinyStories", "power", "relu", "gelu", "gate", "silu", "silu", "mul"),
    "grafs2024_gpt2_a": _cell(_GPT2, "gated", "silu", "gelu", "add", "silu", "gelu", "add"),
    "grafs2024_gpt2_b": _cell(_GPT2, "gated", "gelu", _X, "left", "gelu", "gelu", "add"),
    "grafs2024_gpt2_c": _cell(_GPT2, "gated", "gelu", "gelu", "gate", _X, "gelu", "gate"),
}
