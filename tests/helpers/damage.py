"""Damaged bases and adapters: each use must end in one error, soon."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.config.schema import Config, Model
from pipeline.model import base as bases
from pipeline.model import hf_tokenizer
from pipeline.model.base.fingerprint import fingerprint
from pipeline.model.load import load_base
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.run.errors import UserError

CPU_SECONDS = 2.0


DEEP = "[" * 20_000 + "]" * 20_000


QUITE_DEEP = "[" * 300 + "]" * 300  # Python reads it, and fails later


Spoil = Callable[[Path], Any]


def use(place: Path | str) -> None:
    """All that a run does with a base: its tokenizer, its hash, its weights, a pass, a token."""
    config = Config(name="x", model=Model(base=str(place), dtype="fp32"))
    base = bases.resolve(config.model)
    tokenizer = Tokenizer(base.tokenizer)
    fingerprint(config.model, base, config.train.seed)
    hf_tokenizer.load(base.tokenizer)
    model = load_base(config.model, base, config.train.seed)
    ids = torch.tensor([[i % model.config.vocab_size for i in tokenizer.encode(["a b"])[0]]])
    with torch.no_grad():
        model(input_ids=ids)


def outcome(work: Callable[[], Any]) -> UserError | None:
    """The error of a user; None where there is none. Anything else is raised, and so is a long wait."""
    began = time.process_time()
    try:
        work()
        error = None
    except UserError as caught:
        error = caught
        assert len(str(error)) < 2_000
        assert error.where
        assert error.fix
    assert time.process_time() - began < CPU_SECONDS
    return error


def edit(name: str, **values: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / name
        there = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**there, **values}))

    return spoil


def put(name: str, text: str | bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def damaged(data: bytes, most: int, draw: random.Random) -> bytes:
    """Some bytes of the first `most` changed, one time in four cut off instead."""
    if draw.random() < 0.25:
        return data[: draw.randrange(most)]
    made = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 8])):
        made[draw.randrange(most)] ^= 1 << draw.randrange(8)
    return bytes(made)
