"""Whose terms a model is under, base, data and teachers, and where they conflict. Facts and sources: docs/licences.md.

Suri gives no legal advice: it says what the licences say, and where it knows none, that it knows none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config, Source
from pipeline.dataset import generated
from pipeline.dataset.licences import BY_KEY, FREE, Licence, from_front_matter, known_data, named
from pipeline.model.base import kind_of
from pipeline.model.base.licences import licence_by_name, licence_of, read_front_matter
from pipeline.model.base.location import base_name
from pipeline.run.markdown import code, plain

UNKNOWN = "not known to Suri: look at its page"
# Providers by the names of their models: what their terms say of outputs as training data.
_PROVIDERS = (
    (r"(gpt|chatgpt|o[1-9]|text-davinci|davinci)\b.*", "OpenAI"),
    (r"claude.*", "Anthropic"),
    (r"gemini.*", "Google (Gemini API)"),
)


@dataclass(frozen=True)
class Party:
    """A base, a source of data or a teacher.

    Attributes:
        role: `base`, `data` or `teacher`. name: without a folder of this machine.
        licence: from the table; None where it is not in it. text: of the licence as it is shown; empty = not known.
        note: what else holds. provider: whose terms forbid outputs as training data of competing models; empty = none.
    """

    role: str
    name: str
    licence: Licence | None = None
    text: str = ""
    note: str = ""
    provider: str = ""


def parties(config: Config, base_folder: Path | None) -> list[Party]:
    """The base, every source of data, and the teachers of generated rows. base_folder: where the base's card may be."""
    found = []
    if kind_of(config.model) != "geometry":
        base = licence_of(config.model, base_folder)
        note = f"by {base.origin}" if base.origin else ""
        found.append(Party("base", base_name(config.model), base.licence, base.text, note))
    reports = generated.reports(config.data.sources)
    for source in config.data.sources:
        if source.path in reports:
            found += _teachers(reports[source.path])
        else:
            found.append(_data(source))
    return list(dict.fromkeys(found))


def conflicts(found: Sequence[Party], name: str) -> list[str]:
    """What the terms together forbid, demand, or leave open, in sentences. name: of the model."""
    base = next((party for party in found if party.role == "base"), None)
    lines = [*_not_commercial(found), *_competing(found)]
    for party in found:
        lines += _of_models(party, base, name)
    lines += _share_alike(found, base)
    if open_ones := [p for p in found if not p.text and not p.provider]:
        who = _listed(_who(p) for p in open_ones)
        lines.append(f"Suri knows no licence of {who}: look it up before you pass the model on.")
    return lines


def as_data(found: Sequence[Party]) -> list[dict[str, str]]:
    """Plain data for the record of an export, which `from_data` reads back."""
    return [
        {"role": p.role, "name": p.name, "licence": p.licence.key if p.licence is not None else "", "text": p.text,
         "note": p.note, "provider": p.provider}
        for p in found
    ]  # fmt: skip


def from_data(values: Any) -> list[Party]:
    """The parties of a record; what is no such record is left out."""
    found = []
    for one in values if isinstance(values, list) else []:
        if isinstance(one, dict) and all(isinstance(value, str) for value in one.values()):
            texts = {key: one.get(key, "") for key in ("role", "name", "text", "note", "provider")}
            found.append(Party(licence=BY_KEY.get(one.get("licence", "")), **texts))
    return found


def is_under_base_terms(found: Sequence[Party]) -> bool:
    """Whether the terms of the base are all that a card has to name: data and teachers ask for nothing more."""
    others = [party for party in found if party.role != "base"]
    return all(not p.provider and p.licence is not None and p.licence.id in FREE for p in others)


def section(found: Sequence[Party], name: str) -> str:
    """Markdown for the card: a table of the terms, what they demand, and the conflicts. name: of the model."""
    if not found:
        return "Random weights, and data made by Suri: Apache-2.0."
    rows = [f"| {p.role} | {code(p.name)} | {_shown(p)} | {plain(p.note)} |" for p in found]
    blocks = ["\n".join(["| | | licence | |", "|---|---|---|---|", *rows])]
    if lines := conflicts(found, name):
        blocks.append("\n".join(f"- {line}" for line in lines))
    binding = [p for p in found if p.licence is not None and (p.role == "base" or p.licence.id not in FREE)]
    asked = {p.text: p.licence.duties for p in binding if p.licence is not None and p.licence.duties}
    if asked:
        blocks.append("What these licences ask of those who pass on the model: " + "; ".join(
            f"{text}: {', '.join(duties)}" for text, duties in asked.items()) + ".")  # fmt: skip
    blocks.append("Facts as Suri knows them, no legal advice; the texts of the licences count.")
    return "\n\n".join(blocks)


def _data(source: Source) -> Party:
    """A source: the config's word counts first, then a card beside it, then what Suri knows of it."""
    name = _short(source.path)
    if source.licence:
        licence = named(source.licence)
        return Party("data", name, licence, licence.name if licence else source.licence, "by the config")
    path = Path(source.path)
    folder = path if path.is_dir() else path.parent
    if path.exists():
        licence, text = from_front_matter(read_front_matter(folder / "README.md"))
        if text:
            return Party("data", name, licence, licence.name if licence else text, "by the card beside it")
    known = known_data(source.path)
    if known is None:
        return Party("data", name)
    licence = BY_KEY.get(known.licence)
    provider = "OpenAI" if known.openai else ""
    return Party("data", name, licence, licence.name if licence else "", known.note, provider)


def _teachers(report: Mapping[str, Any]) -> list[Party]:
    """The models that wrote generated rows, with the terms that the config states."""
    found = []
    for model in report["provenance"].get("models", ()):
        name = str(model.get("model") or model.get("asked_for") or "")
        if not name or model.get("role") == "judge":
            continue
        last, terms = name.rpartition("/")[2].lower(), str(model.get("terms") or "")
        provider = next((who for pattern, who in _PROVIDERS if re.fullmatch(pattern, last)), "")
        licence = licence_by_name(name) or licence_by_name(last)
        note = f"terms, as the config states them: {terms}" if terms else ""
        found.append(Party("teacher", _short(name), licence, licence.name if licence else terms, note, provider))
    return found


def _short(name: str) -> str:
    """A path of this machine as its last part; another name as it is."""
    return Path(name).name if name.startswith(("/", "~")) else name


def _not_commercial(found: Sequence[Party]) -> list[str]:
    strict = [p for p in found if p.licence is not None and p.licence.commercial is False]
    return [f"**Not for commercial use**: {_listed(f'{_who(p)} is under {p.text}' for p in strict)}."] if strict else []


def _competing(found: Sequence[Party]) -> list[str]:
    """Providers whose terms forbid to train competing models on outputs of theirs."""
    lines = []
    for provider in dict.fromkeys(p.provider for p in found if p.provider):
        whose = _listed(_who(p) for p in found if p.provider == provider)
        lines.append(f"Answers in {whose} came from a model of {provider}, whose terms forbid to develop models with "
                     "them that compete with its own.")  # fmt: skip
    return lines


def _of_models(party: Party, base: Party | None, name: str) -> list[str]:
    """Conditions of the licence of a base or teacher. name: of the new model."""
    if party.licence is None or party.role == "data":
        return []
    lines, prefix = [], party.licence.prefix
    if prefix and not name.lower().startswith(prefix.lower()):
        lines.append(f"{party.text} ({_who(party)}): the name of a model that is passed on must begin with '{prefix}'; "
                     f"this one is called {code(name)}.")  # fmt: skip
    same = base is not None and base.licence is not None and base.licence.key == party.licence.key
    if party.role == "teacher" and party.licence.key in ("llama2", "llama3") and not same:
        lines.append(f"{party.text}: answers of {_who(party)} may improve no models but Llamas of that version; the "
                     f"base is {code(base.name) if base else 'another one'}.")  # fmt: skip
    if party.role == "base" and party.licence.key == "llama-license":
        lines.append("The weights of the base may not be passed on, and merged weights contain them: publish a "
                     "difference (`make diff`) or the adapter.")  # fmt: skip
    return lines


def _share_alike(found: Sequence[Party], base: Party | None) -> list[str]:
    """Data that asks for its own licence, on a base that has other terms."""
    shared = [p for p in found if p.licence is not None and "-sa-" in p.licence.id]
    if not shared or base is None or (base.licence is not None and base.licence.id in FREE):
        return []
    return [f"What is derived from {_listed(_who(p) for p in shared)} stays under {shared[0].text}, and the base has "
            f"terms too ({base.text or UNKNOWN}). Whether weights are derived from data is disputed."]  # fmt: skip


def _shown(party: Party) -> str:
    if party.licence is not None and party.licence.link:
        return f"[{plain(party.text)}]({party.licence.link})"
    return plain(party.text) if party.text else UNKNOWN


def _who(party: Party) -> str:
    return f"the {party.role} {code(party.name)}"


def _listed(items: Any) -> str:
    *first, last = list(dict.fromkeys(items))
    return f"{', '.join(first)} and {last}" if first else str(last)
