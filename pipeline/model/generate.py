"""Greedy generation for many prompts at once."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from pipeline.model.load import context_length
from pipeline.model.memory import free_bytes
from pipeline.model.sharded import is_sharded, least_of_ranks
from pipeline.run.errors import UserError
from pipeline.run.progress import bar

CPU_ROWS, GPU_ROWS = 32, 256


class NotFinite(UserError):
    """Logits are NaN or infinite. rows: numbers of the prompts concerned."""

    def __init__(self, rows: Sequence[int], what: str) -> None:
        self.rows = list(rows)
        text = f"the model's logits are not finite: prompt {self.rows[0] + 1} ({len(self.rows)} in its batch)"
        super().__init__(text, what, "train again with a lower train.lr, or set model.dtype=fp32")

    def __reduce__(self) -> Any:
        return NotFinite, (self.rows, self.where)


class FiniteCheck(LogitsProcessor):
    """Records which rows of a batch have NaN or +inf among their scores; changes nothing."""

    def __init__(self) -> None:
        self.bad: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        bad = torch.isnan(scores).any(-1) | torch.isposinf(scores).any(-1)
        self.bad = bad if self.bad is None else self.bad | bad
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
    """New ids for each prompt, with the end token where the model gave it.

    Prompts of similar length form a batch, padded on the left; an answer depends on its prompt only, up to rounding.
    An answer ends where the model's context does; a prompt that fills the context has an empty answer.

    Args:
        what: for the progress bar and errors. batch: prompts at once; 0 = `rows_at_once`, halved when the card's
            memory does not suffice. adapters: peft's name of the adapter for each prompt, several in one batch.
        done: called after each batch with the new ids by number of the prompt.

    Raises:
        NotFinite: logits of a prompt are NaN or infinite.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    settings = GenerationConfig(do_sample=False, num_beams=1, eos_token_id=end_id, pad_token_id=end_id)
    with answering(model), bar(total=len(prompts), what=what, unit="answer") as progress:
        start = 0
        while start < len(order):
            width = len(prompts[order[start]])  # the longest of the rest
            settings.max_new_tokens = max(0, min(max_new_tokens, most_tokens(model) - width))
            rows = order[start : start + (batch or rows_at_once(model, width + max_new_tokens))]
            if settings.max_new_tokens < max_new_tokens or _needs_equal_lengths(model, width + max_new_tokens):
                rows = [i for i in rows if len(prompts[i]) == width]
            new: list[list[int]] | None = [[] for _ in rows]
            if settings.max_new_tokens:
                names = None if adapters is None else [adapters[i] for i in rows]
                try:
                    new = generate_batch(model, [prompts[i] for i in rows], settings, names)
                except NotFinite as error:
                    raise NotFinite([rows[n] for n in error.rows], what) from None
            if new is None:  # out of memory
                batch = len(rows) // 2
                continue
            start += len(rows)
            for i, ids in zip(rows, new, strict=True):
                answers[i] = ids[: ids.index(end_id) + 1] if end_id in ids else ids
            if done:
                done({i: answers[i] for i in rows})
            progress.update(len(rows))
    return answers


def generate_batch(
    model: Any, prompts: Sequence[Sequence[int]], settings: GenerationConfig, adapters: list[str] | None = None,
    processors: Sequence[LogitsProcessor] = (), criteria: Sequence[StoppingCriteria] = (),
) -> list[list[int]] | None:  # fmt: skip
    """New ids of one batch, padded at the end; None where several prompts do not fit into the card's memory.

    Args:
        processors, criteria: of transformers: what else happens to the logits, and ends rows.

    Raises:
        NotFinite: its rows are numbers in this batch.
    """
    device = next(model.parameters()).device
    width = max(map(len, prompts))
    ids, mask = _padded(prompts, width)
    generator, inputs = _inputs(model, ids.to(device), mask.to(device))
    check = FiniteCheck()
    options: dict[str, Any] = {"logits_processor": LogitsProcessorList([check, *processors])}
    if criteria:
        options["stopping_criteria"] = StoppingCriteriaList(criteria)
    if adapters is not None:
        options["adapter_names"] = adapters
    new = None
    if is_together := is_sharded(model):  # ranks whose rounding differs would end at different tokens
        options["synced_gpus"] = True
    with contextlib.suppress(*([torch.cuda.OutOfMemoryError] if len(prompts) > 1 and not is_together else [])):
        new = generator.generate(**inputs, **options, generation_config=settings)  # from embeddings: new ids only
    if new is None:
        torch.cuda.empty_cache()  # after the except clause, whose error refers to the tensors of the pass
        return None
    if bad := check.rows():
        raise NotFinite(bad, "")
    ids_per_row: list[list[int]] = new[:, width if "input_ids" in inputs else 0 :].tolist()
    return ids_per_row


def _padded(prompts: Sequence[Sequence[int]], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, (rows, width), padded on the left."""
    ids = torch.zeros((len(prompts), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for n, prompt in enumerate(prompts):
        ids[n, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[n, width - len(prompt) :] = 1
    return ids, mask


def prefix_length(model: Any) -> int:
    """Number of virtual tokens in front of each row."""
    config = getattr(model, "active_peft_config", None)
    return int(config.num_virtual_tokens) if config is not None and config.is_prompt_learning else 0


def most_tokens(model: Any) -> int:
    """Tokens that the model sees of prompt and answer together, besides virtual ones."""
    return (context_length(model.config) or sys.maxsize) - prefix_length(model)


def _needs_equal_lengths(model: Any, tokens: int) -> bool:
    """Whether the rows of a batch must have one length: peft puts the prefix before the padding, so a sliding window
    shorter than the row would cover less of the prefix."""
    window = getattr(model.config, "sliding_window", None)
    return bool(prefix_length(model) and window and prefix_length(model) + tokens > window)


def _inputs(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> tuple[Any, dict[str, torch.Tensor]]:
    """Model and inputs for generation. ids, mask (rows, width), padded on the left.

    peft puts virtual embeddings P before the padding and numbers positions from there, so a row's answer would depend
    on the lengths of the others. Here they come after the padding:

        peft    [P; 0; E(x)]
        here    [0; P; E(x)]
    """
    count = prefix_length(model)
    if not count or str(model.active_peft_config.peft_type.value) == "PREFIX_TUNING":
        return model, {"input_ids": ids, "attention_mask": mask}
    base = model.get_base_model()
    tokens = base.get_input_embeddings()(ids)
    virtual = model.get_prompt(batch_size=len(ids)).to(tokens.dtype)
    embeddings = torch.cat([virtual, tokens], dim=1)  # (rows, count + width, hidden)
    position = torch.arange(embeddings.shape[1], device=ids.device)
    offset = position - (mask == 0).sum(dim=1, keepdim=True)  # from the end of the padding; (rows, count + width)
    source = torch.where((offset >= 0) & (offset < count), offset, position)  # tokens keep their positions
    embeddings = embeddings.gather(1, source[..., None].expand_as(embeddings))
    return base, {"inputs_embeds": embeddings, "attention_mask": (offset >= 0).to(mask.dtype)}


def rows_at_once(model: Any, tokens: int) -> int:
    """Number of answers in a batch. tokens: of a prompt with its answer.

    On a GPU a step takes as long for one row as for hundreds, so the key-value cache may take half of the free memory:
    2 * blocks * key-value heads * head size numbers per token. On a CPU more rows only add padding.
    """
    parameter = next(model.parameters())
    if not parameter.is_cuda:
        return CPU_ROWS
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cached = 2 * config.num_hidden_layers * heads * size * torch.finfo(parameter.dtype).bits // 8
    rows = max(1, min(GPU_ROWS, int(free_bytes(parameter.device) / 2 / (cached * tokens))))
    return least_of_ranks(model, rows)


@contextlib.contextmanager
def answering(model: Any) -> Iterator[None]:
    """Context for generation: evaluation mode, with a cache, without the generation_config in the model's folder.

    transformers would take settings that are not given from there, such as a repetition penalty.
    """
    owners = [model, model.get_base_model()] if hasattr(model, "get_base_model") else [model]  # peft passes on its own
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
