"""The record of the pipeline: an instruction, its input, and the answer to learn."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pipeline.dataset.language import language_of


@dataclass(frozen=True, slots=True)
class Example:
    """One instruction with its answer.

    id: a hash of the three texts. exact: `output` is the only right answer, so that exact match is a fair metric.
    thread: the same for all rows of one conversation, which stay in one split.
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
    ) -> Example:
        """Derives id and language from the texts."""
        text = "\x1f".join((instruction, input, output))
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        language = language_of(instruction + " " + input + " " + output)
        return cls(instruction, input, output, digest, source, language, task, exact, thread)

    def as_dict(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}  # asdict would copy each text
