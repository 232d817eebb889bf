"""The base in records of adapters: one short hash that tells whether an adapter belongs to a base.

Of samples of the tensors and of the settings that change what the model computes, so a base in other shards, saved by
another version of transformers or under another name has the same fingerprint. `identity.py` has the hashes for cache
keys, which cover every byte.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.config.schema import Model
from pipeline.model.base.folder import weight_files
from pipeline.model.base.location import Base
from pipeline.model.load import read_shape
from pipeline.run.files import sha256_json

SAMPLE = 512  # bytes of a tensor, three times
# Settings of a model that change what it computes and that no tensor shows. Listed by name, since a new version of
# transformers writes new settings for an old model. Absent ones and None are left out.
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
    """The values of `SETTINGS` in the config.json of a base, the same for every version of transformers.

    transformers 4 wrote `rope_theta` and `rope_scaling`, or nothing where a value was the default; transformers 5
    writes `rope_parameters`. Its config class reads both.

    Raises:
        UserError: the installed transformers does not know the model.
    """
    config = read_shape(str(folder))
    settings = {key: _plain(getattr(config, key, None)) for key in SETTINGS}
    if isinstance(rope := settings.get("rope_parameters"), dict):
        share = settings.pop("partial_rotary_factor", None)  # some versions keep it outside of rope_parameters
        for part in [v for v in rope.values() if isinstance(v, dict)] or [rope]:
            part.pop("type", None)  # the older name of `rope_type`
            if part.setdefault("partial_rotary_factor", share) in (None, 1.0):
                part.pop("partial_rotary_factor")
    if set(settings.get("layer_types") or ()) == {"full_attention"}:
        settings.pop("layer_types")  # only newer versions write it
    return {key: value for key, value in settings.items() if value is not None}


def _plain(value: Any) -> Any:
    """Numbers as floats, so that 10000 equals 10000.0; without None."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return value if isinstance(value, (bool, type(None))) else str(value)


def fingerprint(model: Model, base: Base, seed: int) -> str:
    """Sixteen hex digits, the same on every machine and for any sharding.

    Covers name, type and shape of each tensor and 512 bytes each from its beginning, middle and end: 13 GB take a
    second. Training changes nearly every number of a tensor, so it shows in the samples; rows changed by hand between
    them do not. Random weights are identified by geometry and seed.

    Args:
        model: its geometry, where the base has random weights. seed: of those.

    Raises:
        UserError: as `settings_of`.
    """
    if base.folder is None:
        scaling = {"rope_scaling": model.rope_scaling} if model.rope_scaling else {}
        return sha256_json({"geometry": model.geometry, "seed": seed, **scaling})[:16]
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
