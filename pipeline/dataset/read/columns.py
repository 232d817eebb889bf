"""The `columns:` line that a message proposes: which column may hold which text, guessed from the names."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence

from pipeline.dataset.read.preference import LOST

KOREAN = {
    "instruction": ("지시문", "지시", "명령", "명령어", "질문", "질의"),
    "input": ("입력", "문맥", "지문"),
    "output": ("출력", "응답", "답변", "대답", "정답"),
}
LEAST_RATIO = {"input": 0.75}  # of difflib; 0.6 for the required fields, so that typing errors and endings pass
NUMBER = re.compile(r"(?:^|[\W_])(?:id|idx|index|no|nr)$|번호$", re.IGNORECASE)


def columns_line(columns: Mapping[str, str]) -> str:
    """The setting as it is written in a config."""
    return f"columns: {{{', '.join(f'{ours}: {theirs}' for ours, theirs in columns.items())}}}"


def guess_columns(
    names: Sequence[str], columns: Mapping[str, str], known: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Our fields with the columns that may hold them: the config's where they exist, otherwise the most similar names.

    Row numbers (`id`, 번호) and rejected answers are never proposed, an input only if a name is similar. A field
    without a similar name gets `?`, or, if exactly as many columns as fields are left, these in their order.

    Args:
        names: of the columns in the table.
        columns: as the config names them.
        known: names under which our fields are recognised without a setting.
    """
    chosen = {ours: theirs for ours, theirs in columns.items() if theirs in names}
    names = [name for name in names if not NUMBER.search(name) and name.strip().lower() not in LOST]
    fields = dict.fromkeys(("instruction", "input", "output", *columns))
    ratios = []
    for ours in fields:
        synonyms = [columns.get(ours, ""), *known.get(ours, ()), *KOREAN.get(ours, ())]
        for synonym, name in itertools.product((_letters(n) for n in synonyms if len(n) > 1), names):
            ratios.append((difflib.SequenceMatcher(None, synonym, _letters(name)).ratio(), ours, name))
    for ratio, ours, name in sorted(ratios, key=lambda entry: -entry[0]):
        if ratio >= LEAST_RATIO.get(ours, 0.6) and ours not in chosen and name not in chosen.values():
            chosen[ours] = name
    missing = [ours for ours in fields if ours not in chosen and (ours != "input" or ours in columns)]
    free = [name for name in names if name not in chosen.values()]
    chosen.update(zip(missing, free if len(free) == len(missing) else "?" * len(missing), strict=True))
    return {ours: chosen[ours] for ours in fields if ours in chosen}


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))
