"""Writes a merged checkpoint as one GGUF file; one tensor is in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.release.gguf.vocabulary import Vocabulary
from pipeline.release.gguf.weights import Weights, as_stored, rope_factors, settings, stored_type
from pipeline.run.progress import bar

ROPE_FACTORS = "rope_freqs.weight"
ALIGNMENT = 32


def write(
    path: Path, weights: Weights, vocabulary: Vocabulary, kind: str, architecture: str, texts: Mapping[str, str]
) -> None:
    """Writes `path`.

    Args:
        kind: f32, f16, bf16 or q8_0. texts: further keys with their values, such as the chat template.

    Raises:
        UserError: a number is beyond the range of float16.
    """
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("model")
    for key, text in texts.items():
        writer.add_string(key, text)
    writer.add_file_type(_file_type(kind))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in settings(weights.shape, len(vocabulary.tokens)).items():
        _add(writer, f"{architecture}.{key}", value)
    for key, value in vocabulary.keys().items():
        _add(writer, key, value)
    factors = rope_factors(weights.shape)
    if factors is not None:
        writer.add_tensor_info(ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes)
    kinds = {}
    for name, shape in weights.shapes.items():
        kinds[name] = stored_type(shape, kind)
        _announce(writer, name, shape, kinds[name])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors)
        with bar(total=len(kinds), what="export: writing GGUF", unit="tensor") as progress:
            for name, tensor in weights.tensors():
                writer.write_tensor_data(np.ascontiguousarray(as_stored(name, tensor, kinds[name])))
                progress.update()
    finally:
        writer.close()


def size_of(weights: Weights, kind: str) -> int:
    """Bytes of the tensors in a file of this kind."""
    return sum(_bytes(shape, stored_type(shape, kind)) for shape in weights.shapes.values())


def _bytes(shape: tuple[int, ...], kind: str) -> int:
    block, size = {"f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "q8_0": (32, 34)}[kind]
    return math.prod(shape) // block * size


def _announce(writer: Any, name: str, shape: tuple[int, ...], kind: str) -> None:
    """Puts a tensor into the table of tensors, before there is its data."""
    import gguf

    raw = gguf.GGMLQuantizationType[kind.upper()]
    dtype = {"f32": np.float32, "f16": np.float16}.get(kind, np.uint8)
    if dtype is np.uint8:  # the package wants the shape of the bytes
        shape = (*shape[:-1], _bytes(shape[-1:], kind))
    writer.add_tensor_info(name, shape, np.dtype(dtype), _total(shape, dtype), raw_dtype=raw)


def _total(shape: tuple[int, ...], dtype: Any) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def _file_type(kind: str) -> int:
    import gguf

    names = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
    return int(gguf.LlamaFileType[names[kind]])


def _add(writer: Any, key: str, value: Any) -> None:
    """Adds a key in the type that llama.cpp reads."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value:
        writer.add_array(key, value)
