"""Which column of a table may hold what, told by its name: too loose to act on, good to propose."""

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
ALIKE = {"input": 0.75}  # least ratio of difflib; 0.6 for what must be there, so that typing errors, endings pass
NUMBER = re.compile(r"(?:^|[\W_])(?:id|idx|index|no|nr)$|번호$", re.IGNORECASE)


def guess(names: Sequence[str], columns: Mapping[str, str], known: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Our fields with the columns they may be: what the config says where it is right, else the most similar names.

    Numbers of rows (`id`, 번호) and answers that lost (`rejected`) are no guess, and an input is named only where one
    is similar. What is open then is `?`, since any other column would be a lie that looks like advice; but where just
    as many columns are left as are asked for, they can only be these, in their order.

    Args:
        names: of the columns that are there.
        columns: as the config names them.
        known: names under which our fields are read without being told.
    """
    found = {ours: theirs for ours, theirs in columns.items() if theirs in names}
    names = [name for name in names if not NUMBER.search(name) and name.strip().lower() not in LOST]
    wanted = dict.fromkeys(("instruction", "input", "output", *columns))
    alike = []
    for ours in wanted:
        said = [columns.get(ours, ""), *known.get(ours, ()), *KOREAN.get(ours, ())]
        for one, name in itertools.product((_bare(n) for n in said if len(n) > 1), names):
            alike.append((difflib.SequenceMatcher(None, one, _bare(name)).ratio(), ours, name))
    for ratio, ours, name in sorted(alike, key=lambda pair: -pair[0]):
        if ratio >= ALIKE.get(ours, 0.6) and ours not in found and name not in found.values():
            found[ours] = name
    missing = [ours for ours in wanted if ours not in found and (ours != "input" or ours in columns)]
    free = [name for name in names if name not in found.values()]
    found.update(zip(missing, free if len(free) == len(missing) else "?" * len(missing), strict=True))
    return {ours: found[ours] for ours in wanted if ours in found}


def _bare(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))
