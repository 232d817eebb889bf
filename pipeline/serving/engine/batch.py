"""The answers that run on one model, as consecutive rows of its cache.

    row   0 ........ decoding-1 | decoding ........ n-1
          one token a step      | their prompts are read, in order

A request that ends leaves its row to the last one, so rows stay consecutive.
"""

from __future__ import annotations

from typing import Any

from pipeline.serving.engine.decoder import Decoder
from pipeline.serving.engine.mixed_linear import RowAdapters
from pipeline.serving.engine.sampler import RowSampling, choose
from pipeline.serving.engine.slot import Slot
from pipeline.serving.engine.slot_cache import rounded, rounded_rows
from pipeline.serving.engine.step_graphs import StepGraphs

CPU_PROMPT, GPU_PROMPT = 256, 8192  # tokens of prompts read between two steps, so that running answers wait shortly
CPU_TOGETHER = 64  # prompts whose padded tokens are fewer are read at once: a CPU gains nothing from longer ones


class Batch:
    """One model in memory with its cache.

    Attributes:
        adapters: which adapter each row uses; None for a model without.
        context: most tokens of prompt and answer. per_token: bytes of a token in the cache.
        least_rows, least_columns: size of the cache from the start, so that graphs of steps stay valid.
        prompt_tokens, new_tokens: since the start.
    """

    def __init__(self, decoder: Decoder, adapters: RowAdapters | None, context: int) -> None:
        self.decoder, self.adapters, self.context = decoder, adapters, context
        self.graphs = StepGraphs(decoder, adapters)
        self.least_rows, self.least_columns = 1, rounded(1)
        self.slots: list[Slot] = []
        self.decoding = 0
        self.prompt_tokens = self.new_tokens = 0
        self.virtual = decoder.virtual
        self.per_token = decoder.cache.bytes_per_token()  # known from the comparison when the model was loaded
        is_cuda = decoder.device.type == "cuda"
        self.most_prompt = GPU_PROMPT if is_cuda else CPU_PROMPT
        self.most_together = GPU_PROMPT if is_cuda else CPU_TOGETHER

    def reserve(self, slots: int, tokens: int, most: int) -> None:
        """On a card, gives the cache its usual size from the start if that is within `most` bytes."""
        rows, columns = rounded_rows(slots), rounded(min(tokens, self.context) + 1)
        if self.decoder.device.type == "cuda" and rows * columns * self.per_token <= most:
            self.least_rows, self.least_columns = rows, columns

    def size_with(self, slot: Slot | None = None) -> int:
        """Bytes of the cache when a request joins, or as it is; answers may grow to their limits."""
        slots = self.slots + ([slot] if slot else [])
        if not slots:
            return self.decoder.cache.rows * self.decoder.cache.columns * self.per_token
        rows = max(self.decoder.cache.rows, self.least_rows, rounded_rows(len(slots)))
        columns = max(self.decoder.cache.columns, self.least_columns, *(self._columns(one) for one in slots))
        return rows * columns * self.per_token

    def _columns(self, slot: Slot) -> int:
        return rounded(self.virtual + len(slot.request.ids) + slot.limit + 1)

    def _grow(self, columns: int) -> None:
        rows = max(self.least_rows, rounded_rows(len(self.slots)))
        self.decoder.cache.grow(rows, max(self.least_columns, rounded(columns)))

    def running(self) -> int:
        """Number of requests that are not over; any thread may call it."""
        return sum(not slot.is_over for slot in list(self.slots))

    def problem(self, slot: Slot) -> str:
        """Why a request cannot run here, even alone; empty if it can."""
        ids = slot.request.ids
        if not ids:
            return "the prompt is empty"
        if min(ids) < 0 or max(ids) >= self.decoder.vocabulary:
            return f"the prompt has ids outside of the {self.decoder.vocabulary:,} of the model"
        if len(ids) >= self.context:
            return f"the prompt of {len(ids):,} tokens leaves no room: the model sees {self.context:,}"
        return ""

    def join(self, slot: Slot) -> None:
        """Takes a request into the last row."""
        slot.sampling = RowSampling.of(slot.request, self.decoder.vocabulary, self.decoder.device)
        self.slots.append(slot)

    def leave(self) -> None:
        """Removes the requests that are over."""
        for row in reversed(range(len(self.slots))):
            if self.slots[row].is_over:
                self._remove(row)

    def empty(self) -> None:
        """Forgets all requests and frees the cache."""
        self.slots.clear()
        self.decoding = 0
        self.decoder.cache.free()

    def _remove(self, row: int) -> None:
        last = len(self.slots) - 1
        if row < self.decoding:
            self.decoding -= 1
            self._move(self.decoding, row)
            row = self.decoding
        self._move(last, row)
        self.slots.pop()

    def _move(self, source: int, target: int) -> None:
        if source != target:
            self.decoder.cache.move(source, target)
            self.slots[target] = self.slots[source]

    def read_prompts(self) -> list[Slot]:
        """Reads the next part of the waiting prompts; those that are complete get their first token.

        Returns the requests concerned, also when it raises (`concerned`).
        """
        concerned = self.next_prompts()
        if not concerned:
            return []
        first, head = self.decoding, concerned[0]
        is_alone = self.decoding == 0
        part = self.most_prompt * 2 if is_alone else self.most_prompt
        chunks = [slot.request.ids[slot.read : slot.read + part] for slot in concerned]
        start = self.virtual + head.read
        self._grow(start + max(map(len, chunks)) + 1)
        if self.virtual and not head.read:
            for row in range(first, first + len(concerned)):
                self.decoder.virtual_tokens(row)
        if self.adapters is not None:
            self.adapters.select([slot.adapter for slot in concerned])
        logits = self.decoder.prompt(first, chunks, start)
        for slot, chunk in zip(concerned, chunks, strict=True):
            slot.read += len(chunk)
            slot.length = self.virtual + slot.read
            self.prompt_tokens += len(chunk)
        done = [n for n, slot in enumerate(concerned) if slot.read == len(slot.request.ids)]
        if done:
            self.decoding += len(done)  # all of them: several prompts are read whole
            self._give(logits[done], [concerned[n] for n in done])
        return concerned

    def next_prompts(self) -> list[Slot]:
        """The requests whose prompts are read next: the rest of one, or several that are short."""
        waiting = self.slots[self.decoding :]
        if not waiting or waiting[0].read or len(waiting[0].request.ids) > self.most_prompt:
            return waiting[:1]
        together, width = 1, len(waiting[0].request.ids)
        for slot in waiting[1:]:
            width = max(width, len(slot.request.ids))
            if width * (together + 1) > self.most_together:
                break
            together += 1
        return waiting[:together]

    def step(self) -> None:
        """One token for every running answer."""
        slots = self.slots[: self.decoding]
        lengths = [slot.length for slot in slots]
        self._grow(max(lengths) + 2)
        adapters = [slot.adapter for slot in slots]
        logits = self.graphs.step([slot.last for slot in slots], lengths, adapters)
        for slot in slots:
            slot.length += 1
        self._give(logits, slots)

    def _give(self, logits: Any, slots: list[Slot]) -> None:
        tokens = choose(logits, [slot.sampling for slot in slots if slot.sampling])
        self.new_tokens += len(slots)
        for slot, token in zip(slots, tokens, strict=True):
            if token is None:  # later answers in this row would multiply what is not finite by zero
                self.decoder.cache.clear(self.slots.index(slot))
            slot.give(token)
