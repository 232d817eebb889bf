"""Which base an adapter belongs to: a hash of what the base computes, wherever it lies and whatever it is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.model.base import Base
from pipeline.model.base_folder import weight_files
from pipeline.model.load import read_shape
from pipeline.run.files import sha256_json

SAMPLE = 512  # bytes of a tensor, three times
# Of a model's settings, those that change what it computes and show in no tensor. Named one by one, since a new version
# of transformers writes new settings for an old model. One that the model has not, or that is None, is left out.
SETTINGS = (
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps",
    "hidden_act", "hidden_activation", "activation_function",
    "rope_parameters", "rotary_dim", "partial_rotary_factor", "no_rope_layers", "alibi",
    "sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "window_size", "attention_types",
    "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "clip_qkv", "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx", "residual_multiplier", "attention_multiplier", "embedding_multiplier",
    "logits_scaling", "logit_scale", "scale_embedding", "parallel_attn", "use_parallel_residual", "use_qk_norm",
    "do_layer_norm_before", "apply_residual_connection_post_layernorm",
    "num_experts_per_tok", "norm_topk_prob", "routed_scaling_factor", "tie_word_embeddings",
)  # fmt: skip


def settings_of(folder: Path) -> dict[str, Any]:
    """`SETTINGS` of a base, in one form.

    transformers 4 wrote `rope_theta` and `rope_scaling`, or nothing where a value was the default; transformers 5
    writes `rope_parameters`. Its own config class reads all of these, so a model saved by either gives the same values.

    Raises:
        UserError: this transformers does not know the model.
    """
    config = read_shape(str(folder))
    found = {key: _plain(getattr(config, key, None)) for key in SETTINGS}
    if isinstance(rope := found.get("rope_parameters"), dict):
        share = found.pop("partial_rotary_factor", None)  # now inside, now beside
        for part in [v for v in rope.values() if isinstance(v, dict)] or [rope]:
            part.pop("type", None)  # the older name of `rope_type`, which stands beside it
            if part.setdefault("partial_rotary_factor", share) in (None, 1.0):
                part.pop("partial_rotary_factor")
    if set(found.get("layer_types") or ()) == {"full_attention"}:
        found.pop("layer_types")  # only newer versions say so
    return {key: value for key, value in found.items() if value is not None}


def _plain(value: Any) -> Any:
    """Numbers as floats (10000 and 10000.0 are one base), without what is None."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return value if isinstance(value, (bool, type(None))) else str(value)


def fingerprint(config: Config, base: Base) -> str:
    """Sixteen hex digits of a base, the same on every machine and for any cut into files.

    Of each tensor go in its name, type, shape, and 512 bytes each from its beginning, middle and end: 13 GB take a
    second, and training of any kind changes every tensor that it changes nearly everywhere. A change by hand of other
    rows alone is not seen. Random weights go by their shape and seed.

    Raises:
        UserError: as `settings_of`.
    """
    if base.folder is None:
        return sha256_json({"geometry": config.model.geometry, "seed": config.train.seed})[:16]
    tensors: dict[str, Any] = {}
    for name in weight_files(base.folder):
        with open(base.folder / name, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            for tensor, entry in json.loads(file.read(length)).items():
                if tensor != "__metadata__":
                    parts = []
                    begin, end = entry["data_offsets"]
                    for place in (begin, (begin + end) // 2, max(begin, end - SAMPLE)):
                        file.seek(8 + length + place)
                        parts.append(file.read(min(SAMPLE, end - place)).hex())
                    tensors[tensor] = [entry["dtype"], entry["shape"], parts]
    return sha256_json([settings_of(base.folder), tensors])[:16]
