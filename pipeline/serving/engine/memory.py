"""Memory for keys and values, planned before the server answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.model.memory import available_bytes
from pipeline.run.errors import UserError
from pipeline.run.progress import say
from pipeline.serving.engine.slot_cache import rounded, rounded_rows

CARD_SHARE, MACHINE_SHARE = 0.8, 0.5  # of the free memory; the rest is for passes, and for other programs
SHORT_PROMPT = 256  # tokens: with this prompt and an answer of `serve.max_tokens` one request must fit
SIZES = ((1 << 30, "GB"), (1 << 20, "MB"), (1, "bytes"))


def plan_cache(device: torch.device, per_token: Sequence[int], contexts: Sequence[int], slots: int, answer: int) -> int:
    """Bytes that the caches of all models may take together.

    Args:
        per_token: bytes of a token in the cache of each model. contexts: most tokens that each sees. slots: answers at
            once. answer: `serve.max_tokens`.

    Raises:
        UserError: not even one request fits.
    """
    share = CARD_SHARE if device.type == "cuda" else MACHINE_SHARE
    free = int(available_bytes(device) * share)
    short = [
        size * rounded(min(context, SHORT_PROMPT + answer)) for size, context in zip(per_token, contexts, strict=True)
    ]
    if max(short) > free:
        need = f"it takes {_size(max(short))}, free are {_size(free)}"
        what = f"no memory for one answer of serve.max_tokens={answer}: {need}"
        raise UserError(what, "memory", "lower serve.max_tokens, name fewer serve.models, or free memory")
    wanted = rounded_rows(slots) * max(short)
    if wanted > free:
        count = free // max(short)
        say(
            f"serve: memory for about {count} of {slots} answers of {answer} tokens at once ({_size(free)}); further "
            "requests wait"
        )
    most = sum(
        rounded_rows(slots) * rounded(context + 1) * size for size, context in zip(per_token, contexts, strict=True)
    )
    return min(free, most)


def context_within(cache: int, per_token: int, context: int) -> int:
    """The context, shortened to what one row of the cache can hold."""
    if rounded(context + 1) * per_token <= cache:
        return context
    columns = cache // per_token
    size = rounded(1)
    while rounded(size + 1) <= columns:
        size = rounded(size + 1)
    return min(context, size - 1)


def _size(count: int) -> str:
    unit, name = next((unit, name) for unit, name in SIZES if count >= unit or unit == 1)
    return f"{count / unit:.1f} {name}"
