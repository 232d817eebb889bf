"""What instructions ask for: root verbs and their direct objects, counted for the sunburst of the Alpaca paper.

The parse is heavy, so it is done on a sample of rows chosen by content hash, and only where the extra `report` is
installed. English needs spaCy, Korean needs kiwi.
"""

from __future__ import annotations

import importlib.util
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from pipeline.run.errors import UserError
from pipeline.run.progress import say

SAMPLE = 5_000  # rows of one language that are parsed
VERBS, OBJECTS = 20, 4  # in the rings: the most common ones (Self-Instruct, figure 2)
LANGUAGES = {"en": "English", "ko": "Korean"}
PACKAGES = {"en": "spacy", "ko": "kiwipiepy"}
INSTALL = ".venv/bin/pip install -c constraints.txt -e '.[report]'"


def parsers() -> dict[str, str]:
    """Version of the parser of each language that has one installed; for the stage's key."""
    versions = {}
    for language, package in PACKAGES.items():
        if importlib.util.find_spec(package):
            versions[language] = metadata.version(package)
    return versions


def count(instructions: Mapping[str, Sequence[str]], rows: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Per language: what was parsed, and the verbs with their objects, or in `missing` why not.

    Args:
        instructions: the sample of each language.
        rows: how many rows the language has in all.
    """
    entries: dict[str, dict[str, Any]] = {}
    for language in LANGUAGES:
        texts = instructions.get(language, ())
        if not texts:
            continue
        entry: dict[str, Any] = {"rows": rows[language], "parsed": len(texts)}
        try:
            whole = [text.encode("utf-8", "replace").decode() for text in texts]  # no half characters
            entry |= counted(_pairs(language, whole))
        except UserError as error:
            say(f"report: the chart of {LANGUAGES[language]} verbs is left out: {error.what}")
            entry["missing"] = f"{error.what}. To have it: {error.fix}."
        entries[language] = entry
    return entries


def counted(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Rows with a root verb, rows with an object too, and the most common verbs with their most common objects.

    `rows` of a verb counts all its rows that have an object, those of rarer objects too.
    """
    objects: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for verb, object in pairs:
        if verb and object:
            objects[verb][object] += 1
    order = sorted(objects, key=lambda verb: (-objects[verb].total(), verb))[:VERBS]
    return {
        "with_verb": sum(bool(verb) for verb, _ in pairs),
        "with_object": sum(found.total() for found in objects.values()),
        "verbs": [{"verb": verb, "rows": objects[verb].total(), "objects": _common(objects[verb])} for verb in order],
    }


def _common(objects: Counter[str]) -> list[dict[str, Any]]:
    order = sorted(objects.items(), key=lambda item: (-item[1], item[0]))[:OBJECTS]
    return [{"object": name, "rows": rows} for name, rows in order]


def _pairs(language: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """Parses the texts.

    Raises:
        UserError: the parser is not installed, does not start, or its grammar cannot be fetched.
    """
    package = PACKAGES[language]
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{package} is not installed (extra `report`)", fix=INSTALL)
    try:
        if language == "en":
            from pipeline.data_report.english import English

            return English().pairs(texts)
        from pipeline.data_report.korean import Korean

        return Korean().pairs(texts)
    except ImportError as error:
        raise UserError(f"{package} does not start: {error}", fix=f"reinstall it: {INSTALL}") from None
