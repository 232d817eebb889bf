"""Which models and adapters the packed model supports, and what it reads from them.

Layers are recognized by name and type: a block that computes something else under the same names would give wrong
gradients without an error. What is accepted here is still compared with the plain path before a run.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from transformers.activations import ACT2FN

from pipeline.kernels.lora import LoraAdapter

LINEARS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
SILU = (type(ACT2FN["silu"]), torch.nn.SiLU)
GELU = type(ACT2FN["gelu_pytorch_tanh"])  # the tanh form
# Models with one of these scale or cap their logits; their head goes through the model's own forward.
LOGIT_SETTINGS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
# Blocks of LLaMA's form: norm, attention with LLaMA's rotary positions, norm, gated MLP, both halves residual. Others
# have layers of the same names and differ in a factor, the rotation or a layer.
LLAMA_BLOCKS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "GemmaDecoderLayer")
DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")


class NotPackable(Exception):
    """A model or an adapter that the packed model does not support; the message says why."""


def check_attention(model: Any, longest: int) -> None:
    """Raises NotPackable if attention is not a plain causal softmax over rows of up to `longest` tokens."""
    config = model.config
    if not getattr(model, "_supports_attention_backend", False):
        raise NotPackable(f"attention of {config.model_type} cannot be exchanged")
    if getattr(config, "attn_logit_softcapping", None):
        raise NotPackable(f"{config.model_type} caps its attention scores")
    if any(getattr(config, name, 0.0) for name in DROPOUTS):
        raise NotPackable("the base has attention dropout")
    if any(name.endswith("sinks") for name, _ in model.named_parameters()):
        raise NotPackable("attention has sinks")
    limit = max_length_of_fixed_rotation(config)
    if longest > limit:
        raise NotPackable(f"rows are longer than {limit} tokens, and then its rotation depends on the longest at once")
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True) and longest > window:
        raise NotPackable(f"rows are longer than the attention window of {window} tokens")
    if any(name.endswith(".indexer") for name, _ in model.named_modules()) and longest > keys_selected(config):
        raise NotPackable(f"rows are longer than the {keys_selected(config)} tokens that its attention selects")


def unused_mask(decoder: Any, device: torch.device) -> torch.Tensor | None:
    """A mask that the model hands to its attention as it is, which then ignores it (`context.py`); None where positions
    or layers depend on it.

    Without one transformers looks for the bounds of rows in the positions, and waits for the card to see them: each
    pass would begin with an idle card, and with such a wait it could not be recorded.
    """
    modules = [sys.modules.get(one.__module__) for one in type(decoder).__mro__]
    makes_mask = any(hasattr(module, "create_causal_mask") for module in modules)
    # ALiBi counts positions by the mask, and the routers' auxiliary loss, which is not used, takes only one of padding.
    reads_mask = any(getattr(decoder.config, name, False) for name in ("alibi", "output_router_logits"))
    return torch.zeros(1, 1, 1, 1, device=device) if makes_mask and not reads_mask else None


def keys_selected(config: Any) -> int:
    """Tokens up to which an indexer selects all of a row for its attention (DeepSeek-V3.2, GLM-5, MiniMax-M3); 0 if the
    config does not say."""
    blocks = getattr(config, "index_topk_blocks", 0) * getattr(config, "index_block_size", 0)
    return int(getattr(config, "index_topk", 0) or blocks)


def max_length_of_fixed_rotation(config: Any) -> float:
    """Tokens up to which a row leaves the rotary positions of all other rows unchanged."""
    rope = getattr(config, "rope_parameters", None) or {}
    settings = [value for value in rope.values() if isinstance(value, dict)] or [rope]  # by kind of layer, or for all
    limit = float("inf")
    for one in settings:
        rope_type = str(one.get("rope_type", ""))
        if rope_type == "longrope":
            limit = min(limit, one.get("original_max_position_embeddings") or config.max_position_embeddings)
        elif "dynamic" in rope_type:
            limit = min(limit, config.max_position_embeddings)
    return limit


def compute_dtype(decoder: Any) -> torch.dtype:
    """The compute dtype: that of the frozen weights that are not quantized, such as norms."""
    return next(p.dtype for p in decoder.parameters() if p.is_floating_point() and not p.requires_grad)


def activation_name(mlp: Any) -> str | None:
    """Name in `ACTIVATIONS` of an MLP's activation, None for others. Read from the layer: configs may have two keys."""
    function = getattr(mlp, "act_fn", None)
    if type(function) in SILU:
        return "silu"
    return "gelu" if type(function) is GELU else None


def is_llama_block(layer: Any) -> bool:
    """Whether a block is one of `LLAMA_BLOCKS` with exactly their layers."""
    attn, mlp = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    parts = {name for name, _ in layer.named_children()}
    if type(layer).__name__ not in LLAMA_BLOCKS:
        return False
    if parts != {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}:
        return False
    inside = {name for name, _ in attn.named_children()} | {name for name, _ in mlp.named_children()}  # type: ignore[union-attr]
    expected = {name for names in LINEARS for name in names} | {"act_fn"}
    return inside == expected and activation_name(mlp) is not None


def trains_llama_blocks(decoder: Any) -> bool:
    """Whether every block has LLaMA's form, with plain layers that are trained in float32, norms and all."""
    layers = getattr(decoder, "layers", None)
    if not layers or not all(is_llama_block(layer) for layer in layers):
        return False
    linears = [part for layer in layers for part in layer.modules() if isinstance(part, torch.nn.Linear)]
    is_plain = all(type(one) is torch.nn.Linear for one in linears)  # and there are no others: see `is_llama_block`
    # Gemma's norms are stored minus one, and a copy would have to follow them.
    stored = all("Gemma" not in type(layer.input_layernorm).__name__ for layer in layers)
    return is_plain and stored and all(p.requires_grad and p.dtype == torch.float32 for p in layers.parameters())


def can_be_recorded(model: Any, uses_kernels: bool) -> bool:
    """Whether passes through a model's own layers may be CUDA graphs: what they compute must not depend on numbers that
    only the card knows, as the choice of experts does, nor on torch's own random numbers.

    uses_kernels: whether the dropout of adapters is our kernels'.
    """
    modules = [
        (name.lower(), module)
        for name, module in model.named_modules()
        if not (uses_kernels and "lora_dropout" in name)
    ]
    drops = any(isinstance(module, torch.nn.Dropout) and module.p > 0 for _, module in modules)
    return not drops and not any("expert" in name or "router" in name for name, _ in modules)


def has_llama_blocks(model: Any) -> bool:
    """Whether every block of a causal LM has LLaMA's form."""
    layers = getattr(model.get_decoder(), "layers", None)
    return layers is not None and all(is_llama_block(layer) for layer in layers)


def is_plain_lora(model: Any) -> bool:
    """Whether all adapters are plain LoRA (A, B and a scale, one per layer), and there is one."""
    try:
        adapters = [adapter_of(module) for module in model.modules()]
    except NotPackable:
        return False
    return any(adapter is not None for adapter in adapters)


def adapter_of(module: Any) -> LoraAdapter | None:
    """The adapter that peft put on a linear layer; None if it has none.

    Raises:
        NotPackable: not a plain LoRA.
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
    return LoraAdapter(a.weight, b.weight, float(module.scaling["default"]), dropout)


def norm_of(norm: Any) -> tuple[torch.Tensor, float]:
    """The factor that a norm multiplies with, in float32, and its epsilon. Gemma stores the factor minus one."""
    weight = norm.weight.detach().float()
    if "Gemma" in type(norm).__name__:
        weight = weight + 1
    return weight, float(getattr(norm, "variance_epsilon", None) or norm.eps)
