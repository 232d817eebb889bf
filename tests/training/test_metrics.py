"""metrics.jsonl and spikes."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from pipeline.training import metrics
from pipeline.training.metrics import MIN_STEPS, Spikes


def test_spikes() -> None:
    random_ = random.Random(0)
    spikes = Spikes()
    assert not any(spikes.is_spike(2 - n / 200 + random_.gauss(0, 0.05)) for n in range(200))  # a run that goes well
    before = spikes.mean, spikes.variance
    assert before[0] == pytest.approx(1.1, abs=0.1)
    assert spikes.is_spike(2.0)
    assert (spikes.mean, spikes.variance) == before
    assert not spikes.is_spike(1.1)
    assert not spikes.is_spike(0.1)  # better is no reason to look
    resumed = Spikes([1.0 + 0.01 * (n % 2) for n in range(MIN_STEPS)])
    assert resumed.is_spike(3.0)
    early = Spikes()
    assert [early.is_spike(x) for x in [1.0] * (MIN_STEPS - 1) + [100.0]] == [False] * MIN_STEPS
    flat = Spikes()
    assert [flat.is_spike(x) for x in [1.0] * 30 + [1.09, 1.2]] == [False] * 31 + [True]  # no noise at all: a tenth


def test_rewind_is_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "metrics.jsonl"
    for step in range(4):
        metrics.append(log, {"step": step, "spike": ["a\u2028b"]})
    before = log.read_bytes()

    def dying(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            metrics.rewind(log, 1)
    assert log.read_bytes() == before
    metrics.rewind(log, 1)
    assert [m["step"] for m in metrics.read(log)] == [0, 1]
    with open(log, "ab") as file:
        file.write(b'{"step": \xff\n{"step": 1e999}\n{"step": 2}\n')
    assert [m["step"] for m in metrics.read(log)] == [0, 1, 2]
