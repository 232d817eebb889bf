"""A pass leaves the model as it was: its forward, its attention, its memory."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from pipeline.model.packed import context
from pipeline.model.packed.context import PackedContext
from pipeline.model.packed.model import PackedModel
from pipeline.prompt.pack import Packer
from pipeline.prompt.tokens import Tokens
from tests.helpers.packed_models import LONGEST, adapted, packed_pass, take_gradients
from tests.helpers.packs import A, B

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::RuntimeWarning:peft")


class Broken(Exception):
    pass


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2"])
@pytest.mark.parametrize("breaks", [False, True])
def test_the_stock_forward_is_untouched(
    tokens: Tokens, kind: str, breaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a pack went through or something broke on the way."""
    model = adapted(kind)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        first = model(input_ids=ids).logits
    fast = PackedModel(model, LONGEST)
    with torch.no_grad():
        before = model(input_ids=ids).logits
    attention = model.config._attn_implementation
    if breaks:

        def broken(*args: Any) -> None:
            raise Broken

        monkeypatch.setattr("pipeline.kernels.attention.attend_plain", broken)
        with pytest.raises(Broken):
            packed_pass(fast, model, tokens)
        monkeypatch.undo()
    else:
        packed_pass(fast, model, tokens)
    with torch.no_grad():
        after = model(input_ids=ids).logits
    assert torch.equal(before, after)
    assert torch.allclose(first, after, atol=1e-5)
    assert (
        model.config._attn_implementation == fast.decoder.config._attn_implementation == attention != context.ATTENTION
    )
    assert [name for name, module in model.named_modules() if "forward" in vars(module)] == []
    assert [name for name, module in model.named_modules() if module._forward_pre_hooks] == []
    assert context.current_or_none() is None


def test_contexts_are_nested_and_restored() -> None:
    """Also after an error; without one, a packed layer fails instead of attending across rows."""
    outer, inner = (PackedContext(None, None, dtype) for dtype in (torch.float32, torch.bfloat16))  # type: ignore[arg-type]

    def nested() -> None:
        with context.use(inner):
            assert context.current() is inner
            raise Broken

    with context.use(outer):
        with pytest.raises(Broken):
            nested()
        assert context.current() is outer
    assert context.current_or_none() is None
    with pytest.raises(AssertionError):
        context.current()


def test_a_recomputed_block_sees_its_own_pack(tokens: Tokens) -> None:
    """Two passes forward, then both backward: each recomputation runs with the pack of its forward pass."""
    model = adapted("qwen3").train()
    first, second = Packer(tokens, [A, B], 50).packs(range(len(tokens))), Packer(tokens, [], 50).packs(range(3))
    packed_model = PackedModel(model, LONGEST)
    packed_model.recompute = True
    batches = [packed_model.prepare(next(first)), packed_model.prepare(next(second))]
    one_by_one = []
    for batch in batches:
        packed_model.loss_sum(batch).backward()
        one_by_one.append(take_gradients(model))
    losses = [packed_model.loss_sum(batch) for batch in batches]
    for loss, expected in zip(losses, one_by_one, strict=True):
        loss.backward()
        gradients = take_gradients(model)
        assert gradients.keys() == expected.keys()
        assert all(torch.equal(gradients[name], gradient) for name, gradient in expected.items())


def test_nothing_keeps_a_model_alive(tokens: Tokens) -> None:
    for kind in ("llama", "qwen3"):
        model = adapted(kind)
        fast = PackedModel(model, LONGEST)
        packed_pass(fast, model, tokens)
        kept = [weakref.ref(thing) for thing in (model, fast.decoder, fast)]
        del model, fast
        gc.collect()
        assert [ref() for ref in kept] == [None] * 3
