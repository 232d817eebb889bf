"""report.json of `generated/`: yield, novelty, lengths, spending and provenance; the page shows it, `plan` reads it.

Deterministic: it depends on the journal and the config, not on the command that wrote it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.config.synthesis import Asked, Synthesis
from pipeline.data_report import verbs
from pipeline.synthesis import similarity
from pipeline.synthesis.generation import Result
from pipeline.synthesis.lengths import lengths
from pipeline.synthesis.readiness import named, place_of
from pipeline.synthesis.receipts import Receipts, Total, by_purpose
from pipeline.synthesis.request import Draft

POINTS = 500  # of a line over time; of more, so many drawn evenly
SHORT = 600  # characters of a text in a pair


def report(
    settings: Synthesis, result: Result, receipts: Receipts, seeds: Sequence[str], inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """All that is shown about a set of generated rows.

    Args:
        receipts: of the journal. seeds: instructions of the seed tasks. inputs: hashes of the files that requests are
            made from, by path, as in the stage's key.
    """
    instructions = [row.instruction for row in result.rows]
    pairs = similarity.nearest(instructions, seeds, settings.language)
    return {
        "version": 1, "wanted": settings.rows, "rows": len(result.rows), "drafts": result.drafts,
        "items": result.items, "ended": result.ended, "unfinished": result.unfinished, "lost": result.lost,
        "yield": round(len(result.rows) / result.drafts, 4) if result.drafts else None,
        "rejected": dict(result.counts().most_common()),
        "novelty": {
            "limit": settings.novelty,
            "kept_after": _thinned(_kept_after(result)),
            "similarity": _thinned([(pair.row + 1, pair.f) for pair in pairs]),
            "pairs": [_pair(pair, result.rows, seeds) for pair in similarity.most_similar(pairs)],
        },
        "lengths": lengths(result.rows), "verbs": _verbs(settings, instructions, seeds),
        "spend": {
            **Total.of(receipts.values()).as_dict(), "currency": settings.teacher.price.currency,
            "by_purpose": {purpose: total.as_dict() for purpose, total in by_purpose(receipts).items()},
        },
        "provenance": provenance(settings, [*result.rows, *result.rejected], receipts, inputs),
    }  # fmt: skip


def provenance(
    settings: Synthesis, drafts: Sequence[Draft], receipts: Receipts, inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """Who made the rows, of what, when and under which terms; for the datasheets."""
    teachers = [_model("teacher", settings.teacher, receipts, settings.teacher.terms)]
    if settings.judge.bar:
        same = not settings.judge.model
        teachers.append(_model("judge", settings.teacher if same else settings.judge, {}, ""))
    prompts = sorted({prompt for draft in drafts for prompt in _prompts(draft.origin)})
    times = sorted(r.time for r in receipts.values() if r.time)
    return {
        "method": settings.method, "language": settings.language, "models": teachers, "prompts": prompts,
        "files": {path: str(entry.get("sha256", ""))[:16] for path, entry in inputs.items()},
        "first": times[0] if times else "", "last": times[-1] if times else "",
    }  # fmt: skip


def _prompts(value: Any) -> Iterator[str]:
    """Hashes of prompts in an origin: of the method, and of a rating or an evolution inside it."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == "prompt":
                yield str(inner)
            else:
                yield from _prompts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _prompts(inner)


def _model(role: str, asked: Asked, receipts: Receipts, terms: str) -> dict[str, Any]:
    models = dict.fromkeys(r.model for r in receipts.values() if r.model)
    places = dict.fromkeys(r.place for r in receipts.values() if r.place)
    return {
        "role": role, "kind": asked.kind, "place": ", ".join(places) or place_of(asked), "asked_for": named(asked),
        "model": ", ".join(models) or named(asked), "terms": terms.strip(),
    }  # fmt: skip


def _kept_after(result: Result) -> list[tuple[int, int]]:
    """(steps so far, rows kept), each step the drafts that one piece of work gave."""
    return list(enumerate(result.kept_after, 1))


def _thinned(points: Sequence[tuple[int, Any]]) -> list[list[Any]]:
    """At most `POINTS` of them and the last one."""
    step = max(1, -(-len(points) // POINTS))
    chosen = list(points[::step])
    if points and chosen[-1] != points[-1]:
        chosen.append(points[-1])
    return [list(point) for point in chosen]


def _pair(pair: similarity.Pair, rows: Sequence[Draft], seeds: Sequence[str]) -> dict[str, Any]:
    is_seed = pair.other < 0
    other = seeds[-1 - pair.other] if is_seed else rows[pair.other].instruction
    return {
        "f": pair.f, "row": pair.row + 1, "other": -pair.other if is_seed else pair.other + 1, "is_seed": is_seed,
        "text": rows[pair.row].instruction[:SHORT], "other_text": other[:SHORT],
    }  # fmt: skip


def _verbs(settings: Synthesis, rows: Sequence[str], seeds: Sequence[str]) -> dict[str, Any]:
    """Root verbs and their nouns of the seeds and of the rows; why not, where the language has no parser."""
    language = settings.language
    if language not in verbs.LANGUAGES:
        return {"language": language, "missing": f"no parser for the language {language!r}"}
    entries: dict[str, Any] = {"language": language}
    for name, texts in (("seeds", seeds), ("rows", rows)):
        if texts:
            drawn = sorted(texts, key=lambda text: hashlib.sha256(text.encode("utf-8", "replace")).digest())
            counted = verbs.count({language: drawn[: verbs.SAMPLE]}, {language: len(texts)})[language]
            if "missing" in counted:
                return {"language": language, "missing": counted["missing"]}
            entries[name] = counted
    return entries
