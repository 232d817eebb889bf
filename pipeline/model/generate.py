"""Greedy answers to many prompts at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from pipeline.model.load import context_length
from pipeline.model.memory import free_bytes
from pipeline.run.errors import UserError
from pipeline.run.progress import bar

CPU_ROWS, GPU_ROWS = 32, 256


class NotFinite(UserError):
    """The model gave NaN or infinity where a probability should come from. rows: the prompts that it happened to."""

    def __init__(self, rows: Sequence[int], what: str) -> None:
        self.rows = list(rows)
        said = f"the model's logits are not finite: prompt {self.rows[0] + 1} ({len(self.rows)} in its batch)"
        super().__init__(said, what, "train again with a lower train.lr, or set model.dtype=fp32")

    def __reduce__(self) -> Any:
        return NotFinite, (self.rows, self.where)


class _Watch(LogitsProcessor):
    """Changes nothing; remembers which rows of a batch had NaN or +inf among their scores."""

    def __init__(self) -> None:
        self.bad: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        found = torch.isnan(scores).any(-1) | torch.isposinf(scores).any(-1)
        self.bad = found if self.bad is None else self.bad | found
        return scores

    def rows(self) -> list[int]:
        return [] if self.bad is None else self.bad.nonzero().flatten().tolist()


@torch.inference_mode()
def greedy(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    end_id: int,
    max_new_tokens: int,
    what: str,
    batch: int = 0,
    adapters: Sequence[str] | None = None,
    done: Callable[[dict[int, list[int]]], None] | None = None,
) -> list[list[int]]:
    """New ids for each prompt, the end token included when the model gave it.

    Prompts go in batches of similar length, padded on the left; the answer depends on the prompt alone, up to
    rounding. With `adapters`, peft's name of the adapter that answers each prompt, a batch mixes them. No answer goes
    beyond what the model sees; a prompt that leaves no room has an empty one.

    Args:
        batch: prompts side by side; 0 = `rows_at_once`. Half as many from where the card's memory does not suffice.
        done: is given the new ids of a batch, by prompt, as soon as the batch has ended.

    Raises:
        NotFinite: a prompt's logits are NaN or infinite.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    device = next(model.parameters()).device
    wanted = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, eos_token_id=end_id, pad_token_id=end_id
    )
    sees = context_length(model.config)
    with answering(model), bar(total=len(prompts), what=what, unit="answer") as progress:
        start = 0
        while start < len(order):
            width = len(prompts[order[start]])  # the longest of those that are left
            room = min(max_new_tokens, sees - virtual_tokens(model) - width) if sees else max_new_tokens
            rows = order[start : start + (batch or rows_at_once(model, width + max_new_tokens))]
            if room < max_new_tokens or _needs_no_padding(model, width + max_new_tokens):
                rows = [i for i in rows if len(prompts[i]) == width]
            ids, mask = _padded([prompts[i] for i in rows], width)
            mixed = {} if adapters is None else {"adapter_names": [adapters[i] for i in rows]}
            made: list[list[int]] = [[] for _ in rows]
            if room > 0:
                wanted.max_new_tokens, watch = room, _Watch()
                asked, inputs = _inputs(model, ids.to(device), mask.to(device))
                more = {**inputs, **mixed, "logits_processor": LogitsProcessorList([watch])}
                found = None
                with contextlib.suppress(*([torch.cuda.OutOfMemoryError] if len(rows) > 1 else [])):
                    # (rows, width + new), or (rows, new) from embeddings; rows that ended early have the end token
                    found = asked.generate(**more, generation_config=wanted)
                if found is None:
                    torch.cuda.empty_cache()
                    batch = len(rows) // 2
                    continue
                if bad := watch.rows():
                    raise NotFinite([rows[n] for n in bad], what)
                made = found[:, width if "input_ids" in inputs else 0 :].tolist()
            start += len(rows)
            for i, new in zip(rows, made, strict=True):
                answers[i] = new[: new.index(end_id) + 1] if end_id in new else new
            if done:
                done({i: answers[i] for i in rows})
            progress.update(len(rows))
    return answers


def _padded(prompts: Sequence[Sequence[int]], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, (rows, width), padded on the left."""
    ids = torch.zeros((len(prompts), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for n, prompt in enumerate(prompts):
        ids[n, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[n, width - len(prompt) :] = 1
    return ids, mask


def virtual_tokens(model: Any) -> int:
    """How many stand in front of each row."""
    found = getattr(model, "active_peft_config", None)
    return int(found.num_virtual_tokens) if found is not None and found.is_prompt_learning else 0


def _needs_no_padding(model: Any, tokens: int) -> bool:
    """Whether rows of a batch must be of one length: peft puts a prefix in front of the padding, and a window that
    ends within the row would reach as far less of it."""
    window = getattr(model.config, "sliding_window", None)
    return bool(virtual_tokens(model) and window and virtual_tokens(model) + tokens > window)


def _inputs(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> tuple[Any, dict[str, torch.Tensor]]:
    """Whom to ask, and with what. ids, mask (rows, width), padded on the left.

    peft puts learnt embeddings in front of the padding, and takes all positions as they come, so a row's answer would
    depend on how long the others are. Here they stand behind the padding: [0; P; E(x)].
    """
    count = virtual_tokens(model)
    if not count or str(model.active_peft_config.peft_type.value) == "PREFIX_TUNING":
        return model, {"input_ids": ids, "attention_mask": mask}
    base = model.get_base_model()
    words = base.get_input_embeddings()(ids)
    learnt = model.get_prompt(batch_size=len(ids)).to(words.dtype)
    both = torch.cat([learnt, words], dim=1)  # (rows, count + width, hidden)
    at = torch.arange(both.shape[1], device=ids.device)
    behind = at - (mask == 0).sum(dim=1, keepdim=True)  # how far each place is behind the padding
    place = torch.where((behind >= 0) & (behind < count), behind, at)  # where it comes from: words stay where they are
    both = both.gather(1, place[..., None].expand_as(both))
    return base, {"inputs_embeds": both, "attention_mask": (behind >= 0).to(mask.dtype)}


def rows_at_once(model: Any, tokens: int) -> int:
    """How many answers are made side by side, each with so many tokens, question included.

    A step takes a GPU as long for one row as for hundreds, until the cache of keys and values fills half of what is
    free: 2 * blocks * key-value heads * head size numbers a token. On a CPU more rows only make the padding longer.
    """
    parameter = next(model.parameters())
    if not parameter.is_cuda:
        return CPU_ROWS
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cached = 2 * config.num_hidden_layers * heads * size * torch.finfo(parameter.dtype).bits // 8
    return max(1, min(GPU_ROWS, int(free_bytes(parameter.device) / 2 / (cached * tokens))))


@contextlib.contextmanager
def answering(model: Any) -> Iterator[None]:
    """The model as it should answer: no dropout, with a cache, and without the settings that its maker shipped.

    transformers fills everything left open from the model's own generation_config, such as a repetition penalty.
    """
    owners = [model, model.get_base_model()] if hasattr(model, "get_base_model") else [model]  # peft hands its own on
    before = [owner.generation_config for owner in owners]
    was_training, used_cache = model.training, model.config.use_cache
    model.eval()
    model.config.use_cache = True
    for owner in owners:
        owner.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for owner, own in zip(owners, before, strict=True):
            owner.generation_config = own
        model.config.use_cache = used_cache
        model.train(was_training)
