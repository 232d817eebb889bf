"""The record of the pipeline: an instruction, its input, and the answer to learn; or a whole conversation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.dataset.language import language_of
from pipeline.dataset.turn import Turn

PLAIN = ("instruction", "input", "output", "id", "source", "language", "task", "exact", "thread")  # in every row's JSON
SEPARATOR = "\x1f"  # between the texts of which the id is the hash


@dataclass(frozen=True, slots=True)
class Example:
    """One instruction with its answer, or one conversation.

    id: a hash of the texts. exact: `output` is the only right answer, so that exact match is a fair metric.
    thread: the same for all rows that one conversation was cut into, which stay in one split.
    system: the system message; only with chat templates, otherwise it is in the instruction.
    turns: the whole conversation without the system message; empty for an instruction with its answer. If there are
    turns, `instruction` is the first of the user, `input` is empty, and `output` is the last of the assistant.
    tools: descriptions of the functions that the turns may call, as JSON schemas.
    """

    instruction: str
    input: str
    output: str
    id: str
    source: str
    language: str
    task: str = ""
    exact: bool = False
    thread: str = ""
    system: str = ""
    turns: tuple[Turn, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)

    @classmethod
    def of(
        cls,
        instruction: str,
        input: str,
        output: str,
        *,
        source: str,
        task: str = "",
        exact: bool = False,
        thread: str = "",
        system: str = "",
    ) -> Example:
        """Derives id and language from the texts."""
        texts = (instruction, input, output, system) if system else (instruction, input, output)
        digest = _hash(SEPARATOR.join(texts))
        language = language_of(instruction + " " + input + " " + output)
        return cls(instruction, input, output, digest, source, language, task, exact, thread, system)

    @classmethod
    def whole(
        cls,
        turns: Sequence[Turn],
        *,
        source: str,
        system: str = "",
        tools: Sequence[Mapping[str, Any]] = (),
        task: str = "",
        exact: bool = False,
    ) -> Example:
        """A conversation. Its id is a hash of the system message, all turns and the tools.

        turns: with at least one of the user and one of the assistant.
        """
        content = [system, [turn.as_dict() for turn in turns], list(tools)]
        digest = _hash(json.dumps(content, ensure_ascii=False, sort_keys=True, default=str))
        first = next(turn.content for turn in turns if turn.role == "user")
        last = next(turn.content for turn in reversed(turns) if turn.role == "assistant")
        language = language_of(" ".join(turn.content for turn in turns))
        return cls(first, "", last, digest, source, language, task, exact, "", system, tuple(turns), tuple(tools))

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Example:
        """The example that `as_dict` wrote."""
        values = dict(row)
        if "turns" in values:
            values["turns"] = tuple(map(Turn.of, values["turns"]))
        if "tools" in values:
            values["tools"] = tuple(values["tools"])
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """Its JSON; `system`, `turns` (OpenAI messages) and `tools` only where there are any."""
        row: dict[str, Any] = {name: getattr(self, name) for name in PLAIN}  # asdict would copy each text
        if self.system:
            row["system"] = self.system
        if self.turns:
            row["turns"] = [turn.as_dict() for turn in self.turns]
        if self.tools:
            row["tools"] = list(self.tools)
        return row

    def messages(self) -> list[dict[str, Any]]:
        """What a chat template renders: the system message if there is one, then all turns."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        if self.turns:
            return system + [turn.message() for turn in self.turns]
        question = f"{self.instruction}\n\n{self.input}" if self.input else self.instruction
        return [*system, {"role": "user", "content": question}, {"role": "assistant", "content": self.output}]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
