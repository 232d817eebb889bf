"""A base with random weights of any shape, written tensor by tensor: for benchmarks, which need no real ones.

python -m scripts.benchmarks.random_base CONFIG FOLDER      the shape is that of the config's `model.geometry`
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipeline.command import guarded
from pipeline.config.load import load
from pipeline.model.load import geometry_config, read_shape
from pipeline.model.skeleton import Skeleton
from pipeline.release.shards.layout import Layout
from pipeline.release.shards.write import write_checkpoint
from pipeline.run.errors import UserError
from pipeline.run.files import need_space
from pipeline.run.progress import say

BLOCK = 1 << 24


def write_base(folder: Path, shape: Any, dtype: torch.dtype, copies: int = 1) -> int:
    """Writes the base in files of 5 GB; returns its bytes.

    All weights are cut out of one block of random numbers, since drawing billions takes minutes; vectors are ones.

    Args:
        shape: transformers config with `architectures`. copies: how often there must be room for it on the disk.
    """
    folder.mkdir(parents=True)
    write_tokenizer(folder)
    shape.dtype = str(dtype).removeprefix("torch.")
    shape.save_pretrained(folder)
    skeleton = Skeleton(read_shape(str(folder)))
    tensors = {name: t.to(dtype) for name, t in skeleton.tensors().items()}
    layout = Layout.of(tensors, skeleton.model.num_parameters())
    need_space(folder, copies * layout.size, "a base with random weights")
    block = (torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)) * 0.02).to(dtype)
    places = {name: n * 4099 for n, name in enumerate(tensors)}

    def tensor(name: str) -> torch.Tensor:
        size = tensors[name].shape
        if len(size) == 1:
            return torch.zeros(size, dtype=dtype) if name.endswith("bias") else torch.ones(size, dtype=dtype)
        count = size.numel()
        return block.roll(places[name]).repeat(-(-count // BLOCK))[:count].reshape(size)

    write_checkpoint(folder, layout, tensor)
    return layout.size


def write_tokenizer(folder: Path) -> None:
    """Bytes as tokens; a tokenizer's size does not matter here."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: n for n, word in enumerate(["<unk>", "<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def shape_of(path: str) -> Any:
    """The transformers config of a config's `model.geometry`, with the end tokens of `write_tokenizer`.

    Raises:
        UserError: it has none, or no causal LM of this kind is known.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    shape = geometry_config(load(path, []).model)
    if shape.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(f"no causal LM is known for model_type {shape.model_type!r}", "model.geometry", "name another")
    shape.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[shape.model_type]]
    shape.bos_token_id, shape.eos_token_id = 1, 2
    return shape


def main() -> None:
    if len(sys.argv) != 3:
        raise UserError("a config and a folder are needed", "random_base CONFIG FOLDER", "name both")
    size = write_base(Path(sys.argv[2]), shape_of(sys.argv[1]), torch.float16)
    say(f"{size / 1e9:.1f} GB of random weights in {sys.argv[2]}")


if __name__ == "__main__":
    raise SystemExit(guarded(main))
