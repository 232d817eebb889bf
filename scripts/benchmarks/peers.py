"""Trainers that `make bench` compares with: transformers + peft, with Liger Kernel, on packed rows, and Unsloth.

Packed rows go through `torch.nn.attention.varlen`, registered as an attention of transformers:

    ids        a a a b b c c c c      positions  0 1 2 0 1 0 1 2 3      bounds  0 3 5 9

`varlen_attn` gets the bounds, so no mask of (tokens x tokens) is made and no row sees another.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.model.causal_lm import causal_lm_of
from pipeline.prompt.batch import pad
from pipeline.prompt.encode import IGNORE
from pipeline.prompt.tokens import Tokens
from scripts.benchmarks.bench_cases import LIGER_PACKED, Case

GROUP = 16  # micro-batches whose rows are sorted by length together
# With padding, in a micro-batch: what stock transformers can hold at 7B (130 of 139 GiB). The longest rows of a group
# of 64 are more, and go in two.
MOST_PADDED = 24_576
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class VarlenAttention:
    """Causal attention within each row of a pack, as a function of transformers' AttentionInterface.

    Attributes:
        bounds: start of each row and the end, int32 on the model's device, shape (rows + 1,); set before each pass.
        longest: tokens of the longest row.
    """

    NAME = "bench_varlen"

    def __init__(self) -> None:
        self.bounds, self.longest = torch.zeros(0, dtype=torch.int32), 0

    def use_in(self, model: Any) -> None:
        """Registers it, without a mask, and has the model use it."""
        from transformers import AttentionInterface, AttentionMaskInterface

        AttentionInterface.register(self.NAME, self)
        AttentionMaskInterface.register(self.NAME, lambda *args, **kwargs: None)
        model.set_attn_implementation(self.NAME)

    def __call__(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        """query: shape (1, heads, tokens, size); key, value: as many heads or fewer. Gives (1, tokens, heads, size)."""
        repeats = query.shape[1] // key.shape[1]
        q, k, v = (t[0].transpose(0, 1) for t in (query, *(_repeated(t, repeats) for t in (key, value))))
        attend = _on_card if q.is_cuda else _by_row
        return attend(q, k, v, self.bounds, self.longest)[None], None


def _repeated(heads: torch.Tensor, repeats: int) -> torch.Tensor:
    return heads if repeats == 1 else heads.repeat_interleave(repeats, dim=1)


def _on_card(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, longest: int) -> torch.Tensor:
    """q, k, v: shape (tokens, heads, size)."""
    from torch.nn.attention.varlen import varlen_attn

    # The first releases say is_causal, later ones a window: (-1, 0) is everything to the left.
    has_window = "window_size" in inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if has_window else {"is_causal": True}
    out = varlen_attn(q, k, v, bounds, bounds, longest, longest, **causal)
    return out if isinstance(out, torch.Tensor) else out[0]


def _by_row(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, longest: int) -> torch.Tensor:
    """The same on a CPU, which `varlen_attn` does not know: row by row."""
    ends = bounds.tolist()
    outs = []
    for start, end in itertools.pairwise(ends):
        row = (t[start:end].transpose(0, 1)[None] for t in (q, k, v))
        outs.append(torch.nn.functional.scaled_dot_product_attention(*row, is_causal=True)[0].transpose(0, 1))
    return torch.cat(outs)


def apply_liger(model: Any) -> None:
    """Liger Kernel's Llama: norms, rotary, gates, and head with loss in one, on a model that exists already, so that
    its weights are those of the other cases. It replaces parts of transformers too: needs its own process."""
    from liger_kernel.transformers import apply_liger_kernel_to_llama

    apply_liger_kernel_to_llama(model=model)


def unsloth_model(case: Case, folder: Path) -> Any:
    """Unsloth's model with its LoRA. folder: the base, as transformers saves it, with a tokenizer."""
    from unsloth import FastLanguageModel

    # It compiles each block; the graphs of a model before this one would count towards the limit, after which it stops.
    torch.compiler.reset()
    checkpointing = "unsloth" if case.recompute else False
    model, _ = FastLanguageModel.from_pretrained(
        str(folder), max_seq_length=512, dtype=torch.bfloat16, load_in_4bit=case.quantize == "nf4",
        use_gradient_checkpointing=checkpointing,
    )  # fmt: skip
    return FastLanguageModel.get_peft_model(
        model, r=16, target_modules=list(LINEAR), lora_alpha=32, lora_dropout=0.0, bias="none",
        use_gradient_checkpointing=checkpointing, random_state=42, max_seq_length=512,
    )  # fmt: skip


class PaddedRows:
    """Loss of rows padded on the right, as alpaca-lora's loop has them. autocast: to bf16, for float32 weights."""

    def __init__(self, model: Any, tokens: Tokens, autocast: bool) -> None:
        self.model, self.tokens, self.autocast = model, tokens, autocast
        self.device = next(model.parameters()).device

    def loss(self, rows: Sequence[int], labelled: int | None = None) -> torch.Tensor:
        """Mean over the labelled tokens of the rows. labelled: only the row at this place carries loss."""
        batch = pad([self.tokens.row(int(i)) for i in rows])
        labels = torch.from_numpy(batch.labels)
        if labelled is not None:
            labels[torch.arange(len(rows)) != labelled] = IGNORE
        ids = torch.from_numpy(batch.ids).to(self.device)
        widths = torch.from_numpy(self.tokens.lengths[np.asarray(rows)]).to(self.device)
        mask = (torch.arange(ids.shape[1], device=self.device)[None] < widths[:, None]).long()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            given = {"input_ids": ids, "attention_mask": mask, "labels": labels.to(self.device)}
            loss: torch.Tensor = self.model(**given, use_cache=False).loss
        return loss


class PackedRows:
    """Loss of rows one behind the other, each with its own positions, through `VarlenAttention`."""

    def __init__(self, model: Any, tokens: Tokens) -> None:
        self.model, self.tokens = model, tokens
        self.device = next(model.parameters()).device
        self.attention = VarlenAttention()
        self.attention.use_in(causal_lm_of(model))

    def loss(self, rows: Sequence[int], labelled: int | None = None, leaking: bool = False) -> torch.Tensor:
        """As `PaddedRows.loss`. leaking: rows see the rows before them, a fault that a check can be tried on."""
        parts = [self.tokens.row(int(i)) for i in rows]
        lengths = [len(ids) for ids, _ in parts]
        labels = [np.where(np.arange(n) > 0, label, IGNORE) for n, (_, label) in zip(lengths, parts, strict=True)]
        if labelled is not None:
            labels = [label if n == labelled else np.full_like(label, IGNORE) for n, label in enumerate(labels)]
        bounds = [0, sum(lengths)] if leaking else np.cumsum([0, *lengths])
        self.attention.bounds = torch.as_tensor(bounds, dtype=torch.int32, device=self.device)
        self.attention.longest = sum(lengths) if leaking else max(lengths)
        given = {
            "input_ids": np.concatenate([ids for ids, _ in parts]),
            "labels": np.concatenate(labels),
            "position_ids": np.concatenate([np.arange(n) for n in lengths]),
        }
        tensors = {name: torch.from_numpy(array.astype(np.int64))[None] for name, array in given.items()}
        on_device = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        loss: torch.Tensor = self.model(**on_device, use_cache=False).loss
        return loss


def padded_steps(case: Case, rows: PaddedRows) -> Iterator[int]:
    """Backward passes of micro-batches drawn at random; yields the tokens of each, padding not counted."""
    lengths = rows.tokens.lengths
    rng = np.random.default_rng(0)
    while True:
        drawn = rng.permutation(len(lengths))[: case.rows * GROUP]
        if case.grouped:
            drawn = drawn[np.argsort(lengths[drawn])]
        for start in rng.permutation(np.arange(0, len(drawn), case.rows)):
            group = drawn[start : start + case.rows]
            for chosen in np.array_split(group, -(-len(group) * int(lengths[group].max()) // MOST_PADDED)):
                rows.loss(chosen.tolist()).backward()
                yield int(lengths[chosen].sum())


def packed_steps(rows: PackedRows, packs: Sequence[Sequence[int]]) -> Iterator[int]:
    """Backward passes of the given packs, again and again; yields the tokens of each."""
    while True:
        for chosen in packs:
            rows.loss(chosen).backward()
            yield int(rows.tokens.lengths[np.asarray(chosen)].sum())


def is_packed(case: Case) -> bool:
    return case.how in ("hf packed", LIGER_PACKED)
