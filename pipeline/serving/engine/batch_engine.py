"""Continuous batching: one thread that generates for all requests at once.

Requests join and leave between two steps. A step reads a part of the waiting prompts, and gives every running answer
one more token (Yu et al. 2022, Orca: iteration-level scheduling).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from pipeline.run.errors import one_line
from pipeline.run.progress import warn
from pipeline.serving.engine.batch import Batch
from pipeline.serving.engine.request import EngineStatus, Finished, Full, GenerationRequest, Listener
from pipeline.serving.engine.slot import Slot


@dataclass(frozen=True)
class Route:
    """Where a served model runs. adapter: its number in the batch; None for the batch's model alone."""

    batch: Batch
    adapter: int | None = None


@dataclass(frozen=True)
class Limits:
    """slots: answers at once. queue: requests that may wait. cache: bytes for keys and values of all models."""

    slots: int
    queue: int
    cache: int


class BatchTicket:
    """A submitted request, see `request.Ticket`."""

    def __init__(self, slot: Slot, wake: Callable[[], None]) -> None:
        self._slot, self._wake = slot, wake

    def cancel(self) -> None:
        """Ends the request; no effect when it has ended. Any thread may call it."""
        self._slot.is_cancelled = True
        self._wake()


class BatchEngine:
    """The engine of `request.Engine`.

    Args:
        routes: by name of the served model.
    """

    def __init__(self, routes: Mapping[str, Route], limits: Limits) -> None:
        self.routes, self.limits = dict(routes), limits
        self.batches = list({id(route.batch): route.batch for route in routes.values()}.values())
        self._waiting: deque[Slot] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest, listener: Listener) -> BatchTicket:
        """Queues a request.

        Raises:
            Full: as many requests wait as `Limits.queue` allows, or the engine is closed.
        """
        slot = Slot(request, listener)
        with self._changed:
            busy = sum(batch.running() for batch in self.batches) + len(self._waiting)
            if self._is_closed or busy >= self.limits.slots + self.limits.queue:
                raise Full
            self._waiting.append(slot)
            self._changed.notify()
        return BatchTicket(slot, self._wake)

    def status(self) -> EngineStatus:
        """Counts at this moment."""
        running = sum(batch.running() for batch in self.batches)
        prompt, new = (sum(getattr(batch, name) for batch in self.batches) for name in ("prompt_tokens", "new_tokens"))
        return EngineStatus(running, len(self._waiting), self.limits.slots, prompt, new)

    def close(self) -> None:
        """Ends all requests as cancelled and the engine's thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    @torch.inference_mode()
    def _run(self) -> None:
        while not self._is_closed:
            try:
                self._work_once()
            except Exception as error:  # a defect outside of a pass: no request may wait for ever
                self._end_all(Finished("error", f"the engine failed: {one_line(error, 200)}"))
            with self._changed:
                while not self._is_closed and not self._waiting and not any(batch.slots for batch in self.batches):
                    self._changed.wait()
        self._end_all(Finished("cancelled"))

    def _end_all(self, event: Finished) -> None:
        with self._changed:
            slots = [*self._waiting, *(slot for batch in self.batches for slot in batch.slots)]
            self._waiting.clear()
            for batch in self.batches:
                batch.empty()
        for slot in slots:
            slot.end(event)

    def _work_once(self) -> None:
        self._drop_cancelled()
        self._admit()
        for batch in self.batches:
            if concerned := batch.next_prompts():
                self._guarded(batch, batch.read_prompts, concerned)
                batch.leave()
            if batch.decoding:
                self._guarded(batch, batch.step, batch.slots[: batch.decoding])
                batch.leave()

    def _drop_cancelled(self) -> None:
        for batch in self.batches:
            for slot in batch.slots:
                if slot.is_cancelled:
                    slot.end(Finished("cancelled"))
            batch.leave()
        with self._changed:
            left = [slot for slot in self._waiting if slot.is_cancelled]
            for slot in left:
                self._waiting.remove(slot)
        for slot in left:
            slot.end(Finished("cancelled"))

    def _admit(self) -> None:
        """Gives waiting requests a row, in their order, as long as there are slots and memory."""
        while self._waiting and sum(len(batch.slots) for batch in self.batches) < self.limits.slots:
            slot = self._waiting[0]
            route = self.routes.get(slot.request.model)
            problem = route.batch.problem(slot) if route else f"no model is called {slot.request.model}"
            if route and not problem:
                room = route.batch.context - len(slot.request.ids)
                slot.adapter, slot.limit = route.adapter, max(1, min(slot.request.max_tokens, room))
                if not self._has_memory(route.batch, slot):
                    if any(batch.slots for batch in self.batches):
                        return  # until an answer ends
                    problem = f"no memory for the {len(slot.request.ids) + slot.limit:,} tokens of prompt and answer"
            with self._changed:
                self._waiting.popleft()
                if route and not problem:
                    route.batch.join(slot)
            if problem:
                slot.end(Finished("error", problem))

    def _has_memory(self, batch: Batch, slot: Slot) -> bool:
        def size() -> int:
            return sum(other.size_with(slot if other is batch else None) for other in self.batches)

        if size() <= self.limits.cache:
            return True
        for other in self.batches:  # what was kept for the next request
            if not other.slots:
                other.decoder.cache.free()
        return size() <= self.limits.cache

    def _guarded(self, batch: Batch, work: Callable[[], object], concerned: list[Slot]) -> None:
        """Does a part of a step; an error ends the requests concerned, and the engine goes on."""
        try:
            work()
        except Exception as error:  # torch, transformers and drivers each raise their own classes
            said = one_line(error, 200)
        else:
            return
        warn(f"serve: a step failed, which ended {len(concerned)} answers: {said}")
        for slot in concerned:
            slot.end(Finished("error", f"the model failed: {said}"))
        batch.leave()
        if not batch.slots:
            batch.decoder.cache.free()
        if batch.decoder.device.type == "cuda":
            torch.cuda.empty_cache()  # after the except clause, whose error refers to the tensors of the pass
