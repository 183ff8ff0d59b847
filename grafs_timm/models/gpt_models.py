"""Register small GPTs with timm: gpt_mini to search on, gpt_tiny and gpt_small to transfer to.

GPT-2 (Radford et al. 2019) at the sizes that Strack, Safari, Hutter 2024 (arXiv 2408.06820) use for TinyStories. transformers
builds the models, and is imported when the first one is built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.layers import create_act_layer
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ..utils.optional import required

__all__ = ["GPT"]  # register_model adds the entry points

LayerType = str | Callable[..., nn.Module]

# name: (layers, heads, width)
SIZES: dict[str, tuple[int, int, int]] = {"gpt_mini": (3, 3, 192), "gpt_tiny": (6, 6, 384), "gpt_small": (9, 9, 576)}

default_cfgs = generate_default_cfgs(
    {
        name: {
            "num_classes": -1,  # tells timm to pass none: the vocabulary decides
            "input_size": (1, 1, 256),  # timm needs one for config.json; the first number is in_chans
            "mean": (0.0,),
            "std": (1.0,),
            "classifier": "lm.lm_head",
            "license": "apache-2.0",
        }
        for name in SIZES
    }
)


class GPT(nn.Module):
    """GPT-2 for language modelling: token numbers int64 [B,T] -> logits of the next token [B,T,vocab_size].

    The output layer shares the token embedding's weights.

    Args:
        depth: Number of blocks.
        num_heads: Attention heads per block.
        embed_dim: Width of the blocks; their MLPs are four times as wide.
        vocab_size: Number of tokens, 256 by default.
        context: The largest T.
        dropout: Of embeddings, attention and residuals.
        act_layer: Name or class of the activation of each block's MLP, GELU by default.
        num_classes: timm's name for ``vocab_size``.
        in_chans: 1 or None, since tokens have no channels.

    Raises:
        ValueError: A size is out of range, or ``vocab_size`` and ``num_classes`` differ.
    """

    def __init__(
        self,
        depth: int = 3,
        num_heads: int = 3,
        embed_dim: int = 192,
        vocab_size: int | None = None,
        context: int = 256,
        dropout: float = 0.2,
        act_layer: LayerType | None = None,
        num_classes: int | None = None,
        in_chans: int | None = None,
    ) -> None:
        super().__init__()
        vocab_size = _one_vocabulary(vocab_size, num_classes)
        if in_chans not in (None, 1):
            raise ValueError(f"in_chans={in_chans}: this model reads tokens, which have no channels; leave it out")
        if context < 1:
            raise ValueError(f"context is 1 token or more, got {context}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is at least 0 and below 1, got {dropout}")
        library = required("transformers", "gpt", "a GPT model")
        config = library.GPT2Config(
            vocab_size=vocab_size, n_positions=context, n_layer=depth, n_head=num_heads, n_embd=embed_dim,
            resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, activation_function="gelu", use_cache=False,
            tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        self.vocab_size = self.num_classes = vocab_size
        self.context, self.num_features, self.head_hidden_size = context, embed_dim, embed_dim
        self.lm = library.GPT2LMHeadModel(config)
        for block in self.lm.transformer.h:
            block.mlp.act = create_act_layer(act_layer or nn.GELU)

    def get_classifier(self) -> nn.Module:
        """Return the output layer."""
        return self.lm.lm_head

    def forward_features(self, tokens: Tensor) -> Tensor:
        """Map int64 [B,T] to [B,T,embed_dim], after the last normalisation. Raises ValueError for T > context."""
        if tokens.ndim != 2 or tokens.is_floating_point():
            raise ValueError(f"expected token numbers int64 [B,T], got {tokens.dtype} {list(tokens.shape)}")
        if tokens.shape[1] > self.context:
            raise ValueError(f"{tokens.shape[1]} tokens are more than this model's context of {self.context}")
        return self.lm.transformer(tokens, use_cache=False).last_hidden_state

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map [B,T,embed_dim] to logits [B,T,vocab_size], or return x with ``pre_logits``."""
        return x if pre_logits else self.lm.lm_head(x)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map int64 [B,T] to logits [B,T,vocab_size]."""
        return self.forward_head(self.forward_features(tokens))


def _one_vocabulary(vocab_size: int | None, num_classes: int | None) -> int:
    given = {size for size in (vocab_size, num_classes) if size is not None}
    if len(given) > 1:
        raise ValueError(f"vocab_size={vocab_size} and num_classes={num_classes} mean the same number; give one of them")
    size = given.pop() if given else 256
    if size < 1:
        raise ValueError(f"a vocabulary has 1 token or more, got {size}")
    return size


def _gpt(name: str, pretrained: bool, **kwargs: Any) -> GPT:
    if kwargs.get("features_only"):
        raise ValueError(f"{name} has no feature maps; leave features_only out")
    depth, heads, width = SIZES[name]
    sizes = {"depth": depth, "num_heads": heads, "embed_dim": width} | kwargs
    return build_model_with_cfg(GPT, name, pretrained, **sizes)


@register_model
def gpt_mini(pretrained: bool = False, **kwargs: Any) -> GPT:
    """GPT of 3 blocks, 3 heads, width 192: 1.4 M parameters with 256 tokens."""
    return _gpt("gpt_mini", pretrained, **kwargs)


@register_model
def gpt_tiny(pretrained: bool = False, **kwargs: Any) -> GPT:
    """GPT of 6 blocks, 6 heads, width 384: 11 M parameters with 256 tokens."""
    return _gpt("gpt_tiny", pretrained, **kwargs)


@register_model
def gpt_small(pretrained: bool = False, **kwargs: Any) -> GPT:
    """GPT of 9 blocks, 9 heads, width 576: 36 M parameters with 256 tokens."""
    return _gpt("gpt_small", pretrained, **kwargs)
