"""What goes through a model at once where nothing is trained: sizes, slices of the head, halving."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.config.schema import Adapter
from pipeline.model import adapter as adapters
from pipeline.model import memory
from pipeline.model.generate import greedy
from pipeline.model.load import load_folder
from pipeline.model.loss import row_losses
from pipeline.prompt.batch import pad
from pipeline.prompt.encode import IGNORE

SHAPES = {
    "llama": {"num_key_value_heads": 2}, "gpt2": {}, "gemma2": {"final_logit_softcapping": 2.0, "head_dim": 8},
    "cohere": {"logit_scale": 0.1}, "gpt_neox": {}, "opt": {"word_embed_proj_dim": 16},
}  # fmt: skip


def rows(*lengths: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first tokens of each carry no loss; the second row none at all."""
    random = np.random.default_rng(0)
    made = []
    for n, length in enumerate(lengths):
        ids = random.integers(3, 90, length)
        made.append((ids, np.where(np.arange(length) < (length if n == 1 else 3), IGNORE, ids)))
    return made


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("adapter", [None, Adapter(r=2), Adapter(method="prompt", virtual_tokens=3)])
def test_slices_of_the_head_give_the_same_losses(
    kind: str, adapter: Adapter | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the model does something to its logits; the blocks compute once."""
    torch.manual_seed(0)
    common = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    common |= {} if kind == "gpt2" else {"intermediate_size": 48}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **common, **SHAPES[kind])).eval()
    if adapter is not None:
        model = adapters.attach(model, adapter, 0).eval()
    batch, passes = pad(rows(12, 9, 7)), []
    whole = row_losses(model, batch)
    logits = model(input_ids=torch.from_numpy(batch.ids)).logits[:, -12:].log_softmax(-1).detach()
    plain = [
        -sum(float(logits[n, t - 1, label]) for t, label in enumerate(line) if label != IGNORE)
        for n, line in enumerate(batch.labels)
    ]
    assert whole.tolist() == pytest.approx(plain, rel=1e-5)
    decoder = (model.get_base_model() if adapter else model).get_decoder()
    layer = next(m for name, m in decoder.named_modules() if name.endswith((".0", "layers.0")))
    layer.register_forward_hook(lambda *_: passes.append(1))
    monkeypatch.setattr("pipeline.model.loss.LOGITS", 4 * 96)
    sliced = row_losses(model, batch)
    assert sliced.tolist() == pytest.approx(whole.tolist(), rel=1e-6)
    assert (len(passes), float(sliced[1])) == (1, 0.0)
    assert "forward" not in vars(decoder)


def test_no_more_logits_than_allowed(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = load_folder(base, torch.float32), []
    words = model.get_output_embeddings().out_features
    monkeypatch.setattr("pipeline.model.loss.LOGITS", 5 * words)
    model.get_output_embeddings().register_forward_hook(lambda _, __, out: seen.append(out.numel()))
    row_losses(model, pad(rows(12, 9, 7)))
    assert seen == [5 * words, 5 * words, 3 * words]


class Card:
    """A model that says it is on a card with so much memory, of a type of two bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: float, vocabulary: int = 32000, **more: Any) -> None:
        self.config = SimpleNamespace(
            hidden_size=4096, intermediate_size=11008, num_attention_heads=32, vocab_size=vocabulary, **more
        )
        self.weight = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16, device="cuda", is_floating_point=lambda: True)
        monkeypatch.setattr(memory, "free_bytes", lambda _: int(free * 2**30))

    def parameters(self) -> Any:
        return iter([self.weight])


def test_tokens_follow_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {free: memory.tokens_at_once(Card(monkeypatch, free), 512) for free in (1, 4, 8, 100)}
    assert sizes[1] < 512 < sizes[4] < sizes[8] <= sizes[100] == memory.GPU_TOKENS
    # A 7B in bf16 on a card of 24 GB, whatever its vocabulary: passes and logits stay below what is left.
    card = Card(monkeypatch, 24 - 14 - 1, 152_000)
    tokens = memory.tokens_at_once(card, 512)
    per_token = memory._bytes_per_token(card.config, 2, 512)
    assert tokens > 4096
    assert tokens * per_token + memory.LOGITS * 12 < 9 * 2**30
    eager = Card(monkeypatch, 9, _attn_implementation="eager")
    assert memory.tokens_at_once(eager, 2048) < tokens


def test_what_does_not_fit_goes_in_halves(base: Path) -> None:
    model, tried = load_folder(base, torch.float32), []
    lengths = [100, 30, 90, 80, 10, 70]

    def work(group: list[int]) -> list[int]:
        tried.append(len(group) * max(lengths[i] for i in group))
        if tried[-1] > 200:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return [lengths[i] for i in group]

    found: dict[int, int] = {}
    for group, given in memory.each_group(model, lengths, work):
        found |= zip(group, given, strict=True)
    assert [found[i] for i in range(6)] == lengths
    assert max(tried[2:]) <= 300  # it did not try the large group again
    lengths = [500, 20]
    with pytest.raises(memory.OutOfMemory, match="a row of 500 tokens"):
        list(memory.each_group(model, lengths, work))


def test_answers_go_in_halves(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_folder(base, torch.float32)
    prompts = [[5, 6, 7 + n] for n in range(5)]
    whole = greedy(model, prompts, end_id=2, max_new_tokens=3, what="test")
    generate_, sizes = type(model).generate, []

    def small(self: Any, **given: Any) -> Any:
        sizes.append(len(given["input_ids"]))
        if sizes[-1] > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return generate_(self, **given)

    monkeypatch.setattr(type(model), "generate", small)
    assert greedy(model, prompts, end_id=2, max_new_tokens=3, what="test") == whole
    assert sizes == [5, 2, 2, 1]
