"""Exports merged in memory, for bases that cannot be merged tensor by tensor (`release.shards`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from pipeline.model import adapter as adapters
from pipeline.model import hf_tokenizer
from pipeline.model.exported import free_memory
from pipeline.model.load import cast, context_length, load_folder
from pipeline.model.methods.full import FULL
from pipeline.model.methods.own_form import OwnForm
from pipeline.model.precision import DTYPES, dtype_name
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.release import verify
from pipeline.release.export import Export
from pipeline.run.errors import UserError
from pipeline.run.files import read_json
from pipeline.run.progress import working


def merge(export: Export, base_log_probs: torch.Tensor) -> torch.Tensor:
    """Replaces `export.model`, the base, by the checked model to be saved; returns its log-probabilities.

    Raises:
        UserError: training changed nothing, or the merged model differs from base + adapter.
    """
    base, dtype, checks, folder = export.base, export.dtype, export.checks, export.run.folder("adapter")
    method, model = adapters.method_of(base.adapter), export.take_model()
    trains_weights = method is FULL or isinstance(method, OwnForm)  # the base's own, not an update of them
    if trains_weights:
        verify.change_survives(folder, model.state_dict(), DTYPES[dtype], checks, dtype)
    if method is FULL:
        del model
        free_memory()
        model = load_folder(folder, DTYPES[dtype])
        log_probs = export.log_probabilities(model)
        verify.weights_have_learnt(log_probs, base_log_probs, checks)
        export.model = model
        return log_probs

    base_dtype = dtype_name(base.model)
    # The sum of weight and update is rounded once: in float32, unless base and export have the same smaller type.
    merge_dtype = dtype if dtype == base_dtype else "fp32"
    is_quantized = base.model.quantize in ("nf4", "int8")  # fp8 is used only while training
    if trains_weights and not is_quantized:  # before the trained weights are loaded
        model = cast(model, DTYPES[merge_dtype])
    model = adapters.load(model, folder, base.fingerprint())
    adapter_log_probs = export.log_probabilities(model)
    if is_quantized:
        # Merging into 4 or 8 bits would round the update away: the base is dequantised first.
        del model
        free_memory()
        model = base.load().dequantize(dtype=DTYPES[merge_dtype])
        model.is_loaded_in_4bit = model.is_loaded_in_8bit = False  # transformers leaves it set, and peft reads it
        model = adapters.load(model, folder)
    if merge_dtype != base_dtype:
        cast(model, DTYPES[merge_dtype])
    model = cast(method.merge(model), DTYPES[dtype])  # updates are multiplied out in the adapter's float32
    log_probs = export.log_probabilities(model)
    allowed = verify.tolerance(base_dtype, base.model.quantize, dtype)
    verify.merged_equals_adapter(adapter_log_probs, log_probs, base_log_probs, allowed, checks)
    export.model = model
    return log_probs


def save_merged(export: Export, merged_log_probs: torch.Tensor, folder: Path) -> dict[str, Any]:
    """Writes the merged model, loads it with stock transformers, checks and measures it.

    Raises:
        UserError: a check failed.
    """
    model = export.take_model()
    with working("export: saving the merged model"):
        _save(model, export.base.encoder, folder)
    del model
    free_memory()
    with working("export: loading the saved model"):
        reloaded = load_folder(folder, DTYPES[export.dtype])
    verify.reload_equals_merged(merged_log_probs, export.log_probabilities(reloaded), export.checks)
    export.check_tokenizer(folder)
    return export.measure_export(reloaded, folder)


def _save(model: Any, encoder: AnyEncoder, folder: Path) -> None:
    """Writes weights, config, generation config and tokenizer."""
    tokenizer = prepare(model, encoder)
    model.save_pretrained(folder, safe_serialization=True, max_shard_size="5GB")
    is_tied = bool(getattr(model.config, "tie_word_embeddings", False))
    if not is_tied and (read_json(folder / "config.json") or {}).get("tie_word_embeddings", False):
        raise UserError("config.json says that the head is tied, and it is not", str(folder), verify.REPORT)
    hf_tokenizer.save(tokenizer, encoder, folder)


def prepare(model: Any, encoder: AnyEncoder) -> Any:
    """Puts the special tokens of the training into the model's settings; returns the tokenizer to be saved."""
    tokenizer = hf_tokenizer.build(encoder, context_length(model.config))
    ends = {"eos_token_id": encoder.end_id, "pad_token_id": tokenizer.pad_token_id}
    for name, id in ends.items():
        setattr(model.config, name, id)
    model.config.use_cache = True
    model.generation_config = GenerationConfig(bos_token_id=encoder.tokenizer.bos_id, do_sample=False, **ends)
    return tokenizer
