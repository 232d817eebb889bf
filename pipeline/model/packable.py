"""Which models and adapters can take the fast path, and what of them it needs to know.

Parts are told by name and type, not by trying: a block that computes something else under the same names would be wrong
in silence. What is let through here is still compared with the plain path before a run begins.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.activations import ACT2FN

from pipeline.kernels.lora import Adapter

HALVES = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
SILU = (type(ACT2FN["silu"]), torch.nn.SiLU)
GELU = type(ACT2FN["gelu_pytorch_tanh"])  # the tanh form
# What some models do to their logits; there the head goes through the model's own forward.
SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
# Blocks that are norm, attention with LLaMA's rotation, norm, gated MLP, each half added to what came in. Many others
# have parts of the same names and differ in a factor, a rotation or a layer.
BLOCKS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "GemmaDecoderLayer")
DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")


class NotPackable(Exception):
    """Why a model or an adapter cannot take the fast path."""


def check_attention(whole: Any, longest: int) -> None:
    """Raises NotPackable where attention is more than a causal softmax."""
    config = whole.config
    if not getattr(whole, "_supports_attention_backend", False):
        raise NotPackable(f"attention of {config.model_type} cannot be exchanged")
    if getattr(config, "attn_logit_softcapping", None):
        raise NotPackable(f"{config.model_type} caps its attention scores")
    if any(getattr(config, name, 0.0) for name in DROPOUTS):
        raise NotPackable("the base has attention dropout")
    if any(name.endswith("sinks") for name, _ in whole.named_parameters()):
        raise NotPackable("attention has sinks")
    most = _turned_alike(config)
    if longest > most:
        raise NotPackable(f"rows are longer than {most} tokens, and then its rotation depends on the longest at once")
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True) and longest > window:
        raise NotPackable(f"rows are longer than the attention window of {window} tokens")


def _turned_alike(config: Any) -> float:
    """Tokens of the longest row whose presence does not change how positions of all other rows are turned."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [one for one in rope.values() if isinstance(one, dict)] or [rope]  # one for each kind of layer, or for all
    most = float("inf")
    for one in kinds:
        kind = str(one.get("rope_type", ""))
        if kind == "longrope":
            most = min(most, one.get("original_max_position_embeddings") or config.max_position_embeddings)
        elif "dynamic" in kind:
            most = min(most, config.max_position_embeddings)
    return most


def dtype_of(decoder: Any) -> torch.dtype:
    """Of the arithmetic: that of the frozen weights that are held as numbers, such as norms."""
    return next(p.dtype for p in decoder.parameters() if p.is_floating_point() and not p.requires_grad)


def activation(mlp: Any) -> str | None:
    """The name in `ACTS` of what an MLP does; None for others. Of its own function: configs may name two."""
    does = getattr(mlp, "act_fn", None)
    if type(does) in SILU:
        return "silu"
    return "gelu" if type(does) is GELU else None


def is_llama(layer: Any) -> bool:
    """Whether a block is norm, attention, norm, gated MLP, all before their residual, and nothing more."""
    attn, mlp = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    parts = {name for name, _ in layer.named_children()}
    if type(layer).__name__ not in BLOCKS:
        return False
    if parts != {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}:
        return False
    inside = {name for name, _ in attn.named_children()} | {name for name, _ in mlp.named_children()}  # type: ignore[union-attr]
    wanted = {name for names in HALVES for name in names} | {"act_fn"}
    return inside == wanted and activation(mlp) is not None


def has_blocks(whole: Any) -> bool:
    """Whether every block of a causal LM is of LLaMA's form."""
    layers = getattr(whole.get_decoder(), "layers", None)
    return layers is not None and all(is_llama(layer) for layer in layers)


def is_plain_lora(whole: Any) -> bool:
    """Whether adapters are what our kernels know: one LoRA a layer, of A, B and a scale, and something of it."""
    try:
        found = [adapter_of(module) for module in whole.modules()]
    except NotPackable:
        return False
    return any(adapter is not None for adapter in found)


def adapter_of(module: Any) -> Adapter | None:
    """peft's parameters of a linear layer; None when it has no adapter.

    Raises:
        NotPackable: an adapter that is more than A, B and a scale.
    """
    if not hasattr(module, "lora_A"):
        return None
    if (
        list(module.lora_A) != ["default"]
        or getattr(module, "fan_in_fan_out", False)
        or any((getattr(module, "use_dora", None) or {}).values())
    ):
        raise NotPackable("an adapter of another kind than plain LoRA")
    a, b = module.lora_A["default"], module.lora_B["default"]
    if getattr(b, "bias", None) is not None:
        raise NotPackable("an adapter with a bias")
    dropout = float(getattr(module.lora_dropout["default"], "p", 0.0))
    return Adapter(a.weight, b.weight, float(module.scaling["default"]), dropout)
