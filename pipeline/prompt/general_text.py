"""General text, for measuring forgetting and for EWC: passages of a file, cut into windows of tokens.

`general.jsonl` is the built-in text: 6,000 words in English and Korean (everyday life, science, history, fiction,
dialogue, code, arithmetic, advice), written for this project under its licence, so that no base was trained on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.run.encoding import read_text
from pipeline.run.errors import UserError
from pipeline.run.files import sha256_file
from pipeline.run.json_file import json_or_none

BUILT_IN = Path(__file__).with_name("general.jsonl")
WINDOW = 256  # most tokens in a window
FIX = "plain text with one passage a line, or JSONL with `text`"


@dataclass(frozen=True)
class Passage:
    """kind: what sort of text it is, such as code; empty if the file does not say."""

    text: str
    kind: str = ""


def path_of(named: str) -> Path:
    """Path of the named file; of the built-in one if the name is empty."""
    return Path(named) if named else BUILT_IN


def file_hash(named: str, key: str = "eval.general") -> str:
    """SHA-256 of the file, for the keys of stages.

    Raises:
        UserError: no such file.
    """
    if not path_of(named).is_file():
        raise UserError(f"no such file: {named}", key, FIX)
    return sha256_file(path_of(named))


def read_passages(path: Path, key: str = "eval.general") -> list[Passage]:
    """The passages of a file: JSONL with `text` and optionally `kind`, or plain text with one passage a line.

    Args:
        key: config key that names the file, for messages.

    Raises:
        UserError: no such file, not UTF-8, a line that cannot be read, or an empty file.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}", key, FIX)
    lines = read_text(path).split("\n")
    numbered = [(n, line.strip()) for n, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise UserError("the file is empty", str(path), FIX)
    if path.suffix == ".jsonl" or isinstance(json_or_none(numbered[0][1]), dict):
        return [_passage(line, f"{path}:{n}") for n, line in numbered]
    return [Passage(line) for _, line in numbered]


def _passage(line: str, place: str) -> Passage:
    row = json_or_none(line)
    if not isinstance(row, dict):
        raise UserError("not a JSON object", place, FIX)
    text, kind = row.get("text"), row.get("kind", "")
    if not isinstance(text, str) or not text.strip():
        there = ", ".join(map(repr, list(row)[:5])) or "none"
        raise UserError(f"`text` is missing, empty or not a text (keys: {there})", place, FIX)
    return Passage(text, kind if isinstance(kind, str) else "")


@dataclass(frozen=True)
class Window:
    """ids: int64, shape (length,), with BOS if the recipe has one. All but the first are scored."""

    ids: np.ndarray
    kind: str

    @property
    def scored(self) -> int:
        return len(self.ids) - 1


def cut_windows(passages: Sequence[Passage], encoder: AnyEncoder, most: int, size: int = WINDOW) -> list[Window]:
    """Cuts passages into windows of at most `size` tokens that do not overlap; each token is scored at most once.

    If there are more than `most` windows, the first window of every passage is taken, then every second one, and so on;
    of the last round, windows evenly spread over the text. A window with a single token scores nothing and is left out.
    """
    bos = [] if encoder.bos_id is None else [encoder.bos_id]
    step = size - len(bos)
    rounds: list[list[Window]] = []
    for passage, ids in zip(passages, encoder.tokenizer.encode([p.text for p in passages]), strict=True):
        for n, start in enumerate(range(0, len(ids), step)):
            window = Window(np.array(bos + ids[start : start + step], np.int64), passage.kind)
            if window.scored < 1:
                continue
            rounds += [[] for _ in range(n + 1 - len(rounds))]
            rounds[n].append(window)
    chosen: list[Window] = []
    for candidates in rounds:
        count = min(len(candidates), most - len(chosen))
        chosen += [candidates[i * len(candidates) // count] for i in range(count)]
    return chosen
