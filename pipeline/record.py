"""The one record that passes through the pipeline: an instruction, its input, and the answer to learn."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass

HANGUL = re.compile(r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")
LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True)
class Example:
    """One instruction with its answer.

    `id` is a hash of the three texts, so it is the same wherever and whenever the row is read.
    `exact` says that `output` is the only right answer, which makes exact match a fair measure.
    """

    instruction: str
    input: str
    output: str
    id: str
    source: str
    language: str
    task: str = ""
    exact: bool = False

    @classmethod
    def of(
        cls, instruction: str, input: str, output: str, *, source: str, task: str = "", exact: bool = False
    ) -> Example:
        """Derives id and language from the texts."""
        text = "\x1f".join((instruction, input, output))
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        language = language_of(instruction + " " + input + " " + output)
        return cls(instruction, input, output, digest, source, language, task, exact)

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def language_of(text: str) -> str:
    """`ko` when at least a fifth of the letters are Hangul, otherwise `en`.

    A fifth, because Korean instructions often carry English text or code to work on.
    """
    letters = len(LETTER.findall(text))
    return "ko" if letters and len(HANGUL.findall(text)) / letters >= 0.2 else "en"
