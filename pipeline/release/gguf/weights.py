"""Weights and settings of a checkpoint in llama.cpp's form.

llama.cpp rotates neighbouring numbers of a head, (x0, x1), (x2, x3), ...; transformers rotates halves, (x0, x[d/2]),
.... For the architecture `llama` the rows of q_proj and k_proj are therefore put into the other order; `qwen2` rotates
halves in llama.cpp, too:

    transformers    [a0 a1 a2 a3 | b0 b1 b2 b3]        rows of one head
    llama.cpp       [a0 b0 a1 b1 a2 b2 a3 b3]

As in llama.cpp's convert_hf_to_gguf.py (`LlamaModel.permute`, `generate_extra_tensors`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from pipeline.model.base.folder import weight_files
from pipeline.model.base.safetensors_header import read_header
from pipeline.release.gguf.supported import INSTEAD
from pipeline.run.errors import UserError

SKIPPED = ".rotary_emb.inv_freq"  # tables that llama.cpp computes itself
PART = 1 << 24  # numbers that are quantised at once
BLOCK = 32  # numbers of a row that share a scale in q8_0


def settings(shape: Any, rows: int) -> dict[str, Any]:
    """Keys of the file after the architecture's name. shape: the transformers config. rows: of the embedding."""
    heads = shape.num_attention_heads
    size = getattr(shape, "head_dim", None) or shape.hidden_size // heads
    context = shape.max_position_embeddings
    if window := getattr(shape, "sliding_window", None):
        # llama.cpp attends to everything in these architectures, which is the same within the window.
        context = min(context, window)
    rope = shape.rope_parameters
    keys: dict[str, Any] = {
        "block_count": shape.num_hidden_layers,
        "context_length": context,
        "embedding_length": shape.hidden_size,
        "feed_forward_length": shape.intermediate_size,
        "attention.head_count": heads,
        "attention.head_count_kv": getattr(shape, "num_key_value_heads", None) or heads,
        "attention.layer_norm_rms_epsilon": float(shape.rms_norm_eps),
        "rope.freq_base": float(rope["rope_theta"]),
        "rope.dimension_count": size,
        "vocab_size": rows,
    }
    if size * heads != shape.hidden_size:
        keys |= {"attention.key_length": size, "attention.value_length": size}
    if rope["rope_type"] == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    if rope["rope_type"] == "yarn":
        keys |= {
            "rope.scaling.type": "yarn", "rope.scaling.factor": float(rope["factor"]),
            "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
        }  # fmt: skip
    return keys


def rope_factors(shape: Any) -> np.ndarray | None:
    """Divisors of the rotary frequencies of Llama 3.1, (head size / 2,) float32; None for models without them."""
    rope = shape.rope_parameters
    if rope["rope_type"] != "llama3":
        return None
    size = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    factor, low, high = (rope[key] for key in ("factor", "low_freq_factor", "high_freq_factor"))
    context = rope["original_max_position_embeddings"]
    factors = []
    for i in range(0, size, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / size)
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


class Weights:
    """The tensors of a checkpoint by llama.cpp's names.

    Attributes:
        shapes: by llama.cpp's names, in the order in which `tensors` gives them.

    Raises:
        UserError: a tensor has no place in llama.cpp's architecture.
    """

    def __init__(self, folder: Path, shape: Any, architecture: str) -> None:
        self.folder, self.shape, self.permutes = folder, shape, architecture == "llama"
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._places: list[tuple[str, str, str]] = []  # llama.cpp's name, file, name in it
        table = _names(architecture, shape.num_hidden_layers)
        for file in weight_files(folder):
            for name, entry in read_header(folder / file).items():
                if name.endswith(SKIPPED) or (name == "lm_head.weight" and shape.tie_word_embeddings):
                    continue
                new = table.get_name(name, try_suffixes=(".weight", ".bias"))
                if new is None:
                    what = f"the tensor {name} has no place in llama.cpp's architecture {architecture}"
                    raise UserError(what, str(folder), INSTEAD)
                self.shapes[new] = entry.shape
                self._places.append((new, file, name))

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and tensors, in the type of the checkpoint; one at a time is in memory."""
        for new, file, name in self._places:
            with safe_open(self.folder / file, framework="pt") as tensors:
                yield new, self._permuted(name, tensors.get_tensor(name))

    def _permuted(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        layer = name.rsplit(".", 2)[-2]
        if not self.permutes or layer not in ("q_proj", "k_proj"):
            return tensor
        heads = self.shape.num_attention_heads
        if layer == "k_proj":
            heads = getattr(self.shape, "num_key_value_heads", None) or heads
        halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return halves.swapaxes(1, 2).reshape(tensor.shape)


def _names(architecture: str, blocks: int) -> Any:
    """The gguf package's table from transformers' names of tensors to llama.cpp's."""
    import gguf

    return gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], blocks)


def stored_type(shape: tuple[int, ...], kind: str) -> str:
    """Type of one tensor in a file of a kind: vectors stay float32, rows that q8_0 cannot divide become f16."""
    if len(shape) == 1:
        return "f32"
    return "f16" if kind == "q8_0" and shape[-1] % BLOCK else kind


def as_stored(name: str, tensor: torch.Tensor, kind: str) -> np.ndarray:
    """The bytes of a tensor in a stored type, as an array whose shape the gguf package understands.

    Raises:
        UserError: a number is beyond the range of float16.
    """
    import gguf

    if kind == "bf16":
        return tensor.to(torch.bfloat16).view(torch.uint8).numpy()
    if kind == "f16":
        half = tensor.to(torch.float16)
        if not torch.isfinite(half).all():
            what = f"the tensor {name} has numbers beyond 65,504, the largest of float16"
            raise UserError(what, "export.gguf", "set export.gguf=bf16")
        return half.numpy()
    if kind == "f32":
        return tensor.float().numpy()
    # In parts: the package needs several float32 copies of what it quantises.
    parts = tensor.split(max(1, PART // tensor.shape[-1]))
    return np.concatenate([gguf.quants.quantize(p.float().numpy(), gguf.GGMLQuantizationType.Q8_0) for p in parts])
