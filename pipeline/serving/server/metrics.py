"""Counts of the server in Prometheus' text format.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

import bisect
import itertools
import threading
from collections import Counter
from collections.abc import Sequence

from pipeline.serving.engine.request import EngineStatus

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FIRST_TOKEN = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)  # seconds
PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
ANSWER = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)  # tokens


class Histogram:
    """Counts of values in buckets. bounds: upper bounds, rising."""

    def __init__(self, name: str, help: str, bounds: Sequence[float]) -> None:
        self.name, self.help, self.bounds = name, help, bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self) -> list[str]:
        totals = list(itertools.accumulate(self.counts))
        bounds = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        buckets = [f'{self.name}_bucket{{le="{bound}"}} {total}' for bound, total in zip(bounds, totals, strict=True)]
        head = [f"# HELP {self.name} {self.help}", f"# TYPE {self.name} histogram"]
        return [*head, *buckets, f"{self.name}_sum {self.sum:.6f}", f"{self.name}_count {totals[-1]}"]


class Metrics:
    """What happened since the start. Every method may be called by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._refusals = 0
        self._first = Histogram("suri_time_to_first_token_seconds", "From the request to its first token.", FIRST_TOKEN)
        self._each = Histogram("suri_time_per_token_seconds", "Mean time of a token of a request.", PER_TOKEN)
        self._tokens = Histogram("suri_answer_tokens", "Tokens of an answer.", ANSWER)

    def request(self, path: str, status: int) -> None:
        """A response. path: one of the server's own, so that their number is bounded."""
        with self._lock:
            self._requests[path, status] += 1

    def refused(self) -> None:
        with self._lock:
            self._refusals += 1

    def first_token(self, seconds: float) -> None:
        with self._lock:
            self._first.add(seconds)

    def ended(self, tokens: Sequence[int], seconds: float) -> None:
        """A request has ended. tokens: of its answers. seconds: that it took."""
        with self._lock:
            for count in tokens:
                self._tokens.add(count)
            if total := sum(tokens):
                self._each.add(seconds / total)

    def text(self, status: EngineStatus | None) -> str:
        """All counts. status: of the engine; None: it is loading."""
        with self._lock:
            lines = ["# HELP suri_requests_total Responses by path and status.", "# TYPE suri_requests_total counter"]
            lines += [
                f'suri_requests_total{{path="{path}",status="{code}"}} {count}'
                for (path, code), count in sorted(self._requests.items())
            ]
            lines += _plain("suri_queue_refusals_total", "counter", "Requests refused by a full queue.", self._refusals)
            for histogram in (self._first, self._each, self._tokens):
                lines += histogram.lines()
        lines += _plain("suri_ready", "gauge", "1 when the models are loaded.", int(status is not None))
        if status is not None:
            lines += _plain("suri_answers_running", "gauge", "Answers that are generated.", status.running)
            lines += _plain("suri_answers_waiting", "gauge", "Answers that wait for a slot.", status.waiting)
            lines += _plain("suri_slots", "gauge", "Answers that are generated at once, at most.", status.slots)
            lines += _plain("suri_prompt_tokens_total", "counter", "Tokens of prompts.", status.prompt_tokens)
            lines += _plain("suri_new_tokens_total", "counter", "Generated tokens.", status.new_tokens)
        return "\n".join(lines) + "\n"


def _plain(name: str, kind: str, help: str, value: int) -> list[str]:
    return [f"# HELP {name} {help}", f"# TYPE {name} {kind}", f"{name} {value}"]
