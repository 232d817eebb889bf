"""Licences of bases and data as far as Suri knows them: the hub's identifier, and what a derived model must heed.

These are facts from the licences' own texts and from model pages, no legal advice. Sources: docs/licences.md. What is
not in these tables is not known, and the card says that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

OPENAI = (
    "its outputs came from an OpenAI model, whose terms forbid their use to develop models that compete with OpenAI"
)


@dataclass(frozen=True)
class Licence:
    """One licence.

    Attributes:
        id: the hub's identifier; `other` where the hub has none, and then `slug` is its short name.
        name, link: as people know it, and where its text is.
        commercial: whether commercial use is allowed; None where that depends on conditions of the text.
        duties: of those who pass on a model that was derived from it.
        prefix: what the name of such a model must begin with; empty = anything.
        notice: the line that a file NOTICE beside such a model must hold; empty = none.
    """

    id: str
    name: str
    link: str = ""
    slug: str = ""
    commercial: bool | None = True
    duties: tuple[str, ...] = ()
    prefix: str = ""
    notice: str = ""

    @property
    def key(self) -> str:
        """The identifier by which two licences are compared."""
        return self.slug or self.id


_NOT_COMMERCIAL = ("no commercial use",)
_CC = "https://creativecommons.org/licenses/"
_META = "https://github.com/meta-llama/llama-models/blob/main/models/"
_KEEP = ("keep the text of the licence, and notices of its authors",)
_MONTHLY_USERS = "Meta's own licence is needed above 700 million users a month"


def _cc(kind: str, version: str, duties: tuple[str, ...]) -> Licence:
    free = "nc" not in kind.split("-")
    name = f"CC {kind.upper()} {version}"
    return Licence(f"cc-{kind}-{version}", name, f"{_CC}{kind}/{version}/", commercial=free, duties=duties)


def _llama(version: str, folder: str, built: str, prefix: str, *more: str) -> Licence:
    holder = f"{'Meta ' if version == '3' else ''}Llama {version}"
    duties = (
        f"show '{built}' where the model is offered", f"let its name begin with '{prefix}'",
        "pass on a copy of the licence and the file NOTICE", "keep to Meta's Acceptable Use Policy",
        _MONTHLY_USERS, *more,
    )  # fmt: skip
    notice = f"{holder} is licensed under the {holder} Community License, Copyright © Meta Platforms, Inc. "
    return Licence(f"llama{version}", f"{holder} Community License", f"{_META}{folder}/LICENSE", commercial=None,
                   duties=duties, prefix=prefix, notice=f"{notice}All Rights Reserved.")  # fmt: skip


_ONLY_LLAMA = "its outputs may not be used to improve a language model that is no Llama of that version"
_NAME_THEM = ("name the authors", "say what was changed")
_SHARE_ALIKE = "pass on what is derived from it under the same licence"

_ALL = (
    Licence("apache-2.0", "Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0", duties=_KEEP),
    Licence("mit", "MIT License", "https://opensource.org/license/mit", duties=_KEEP),
    Licence("bsd-3-clause", "BSD 3-Clause License", "https://opensource.org/license/bsd-3-clause", duties=_KEEP),
    Licence("cc0-1.0", "CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
    Licence("odc-by", "ODC Attribution License", "https://opendatacommons.org/licenses/by/", duties=_NAME_THEM),
    _cc("by", "4.0", _NAME_THEM),
    _cc("by-sa", "3.0", (*_NAME_THEM, _SHARE_ALIKE)),
    _cc("by-sa", "4.0", (*_NAME_THEM, _SHARE_ALIKE)),
    _cc("by-nc", "4.0", (*_NOT_COMMERCIAL, *_NAME_THEM)),
    _cc("by-nc-sa", "4.0", (*_NOT_COMMERCIAL, *_NAME_THEM, _SHARE_ALIKE)),
    Licence("other", "LLaMA licence of 2023 (Meta, non-commercial)",
            "https://huggingface.co/huggyllama/llama-7b/blob/main/LICENSE", "llama-license", False,
            (*_NOT_COMMERCIAL, "research only",
             "the weights may not be given to others: publish a difference (`make diff`)")),
    Licence("llama2", "Llama 2 Community License", "https://ai.meta.com/llama/license/", commercial=None,
            duties=("pass on a copy of the licence and the file NOTICE", "keep to Meta's Acceptable Use Policy",
                    _MONTHLY_USERS, _ONLY_LLAMA),
            notice="Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc. "
                   "All Rights Reserved."),
    _llama("3", "llama3", "Built with Meta Llama 3", "Llama 3", _ONLY_LLAMA),
    _llama("3.1", "llama3_1", "Built with Llama", "Llama"),
    _llama("3.2", "llama3_2", "Built with Llama", "Llama"),
    _llama("3.3", "llama3_3", "Built with Llama", "Llama"),
    Licence("gemma", "Gemma Terms of Use", "https://ai.google.dev/gemma/terms", commercial=None,
            duties=("pass on the terms and their restrictions of use", "say of changed files that they were changed",
                    "pass on the file NOTICE"),
            notice="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"),
    Licence("other", "EXAONE AI Model License Agreement 1.2 - NC",
            "https://huggingface.co/LGAI-EXAONE/EXAONE-4.0-1.2B/blob/main/LICENSE", "exaone", False,
            (*_NOT_COMMERCIAL, "the same holds for derived models and for outputs")),
    Licence("other", "HyperCLOVA X SEED Model License Agreement",
            "https://huggingface.co/naver-hyperclovax/HyperCLOVAX-SEED-Text-Instruct-0.5B/blob/main/LICENSE",
            "hyperclovax-seed", None,
            ("show 'Powered by HyperCLOVA X' where the model is offered", "pass on the licence and the file NOTICE",
             "NAVER's own licence is needed above 10 million users a month, and for direct competitors"),
            notice="HyperCLOVA X SEED Model is licensed under the HyperCLOVA X SEED Model License Agreement, "
                   "Copyright © NAVER Corp."),
    Licence("other", "Qwen Research License Agreement",
            "https://huggingface.co/Qwen/Qwen2.5-3B-Instruct/blob/main/LICENSE", "qwen-research", False,
            _NOT_COMMERCIAL),
)  # fmt: skip
BY_KEY = {licence.key: licence for licence in _ALL}
# Licences that ask nothing of a model that was trained on, or derived from, what they cover, but to keep notices.
FREE = ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "odc-by", "cc-by-4.0")


@dataclass(frozen=True)
class KnownData:
    """What is known about a data set.

    Attributes:
        licence: a key of `BY_KEY`; empty = no licence was found. note: what else holds.
        openai: whether its outputs came from a model of OpenAI.
    """

    licence: str
    note: str = ""
    openai: bool = False


# By hub id, or by the name of a file without its ending.
_ALPACA = KnownData("cc-by-nc-4.0", OPENAI, True)
_SURI = KnownData("apache-2.0", "made for this project")
DATA = {
    "families": _SURI,
    "seed_tasks.en": _SURI,
    "seed_tasks.ko": _SURI,
    "rehearsal": _SURI,
    "tatsu-lab/alpaca": _ALPACA,
    "alpaca_data": KnownData("cc-by-nc-4.0", f"if it is Stanford's; {OPENAI}", True),
    "yahma/alpaca-cleaned": KnownData(
        "cc-by-nc-4.0", f"its page says cc-by-4.0, but it is Alpaca's data, corrected; {OPENAI}", True
    ),
    "alpaca_data_cleaned": KnownData("cc-by-nc-4.0", f"if it is Alpaca's data, corrected; {OPENAI}", True),
    "beomi/KoAlpaca-v1.1a": KnownData("", f"no licence of the data was found; {OPENAI}", True),
    "ko_alpaca_data": KnownData("cc-by-nc-4.0", f"if it is KoAlpaca's, a translation of Alpaca's data; {OPENAI}", True),
    "databricks/databricks-dolly-15k": KnownData("cc-by-sa-3.0"),
    "timdettmers/openassistant-guanaco": KnownData("apache-2.0", "from OpenAssistant"),
    "OpenAssistant/oasst1": KnownData("apache-2.0"),
}  # fmt: skip
ENDING = re.compile(r"\.(jsonl?|csv|tsv|parquet|arrow|gz|zst|xz|bz2)$")


def named(text: str) -> Licence | None:
    """The licence of an identifier or a name, as people write it; None where it is not in the table.

    `cc-by-nc-4.0`, `CC BY-NC 4.0`, `Apache-2.0` and `Apache License 2.0` are all understood.
    """
    plain = _plain(text)
    return next((one for one in _ALL if plain in (_plain(one.key), _plain(one.name))), None)


def known_data(path: str) -> KnownData | None:
    """What is known about a source of data by its hub id or the name of its file."""
    name = PurePath(path).name
    while (shorter := ENDING.sub("", name)) != name:
        name = shorter
    return DATA.get(path) or DATA.get(name)


def from_front_matter(values: Any) -> tuple[Licence | None, str]:
    """The licence that the front matter of a card names, and the text as it stands there; empty where there is none."""
    if not isinstance(values, dict):
        return None, ""
    stated, own_name = (_text(values.get(key)) for key in ("license", "license_name"))
    text = own_name if stated in ("", "other") and own_name else stated
    return (named(text) or named(stated), text) if text else (None, "")


def _text(value: Any) -> str:
    """A value of a card as one short line; cards of others may hold anything."""
    first = value[0] if isinstance(value, list) and value else value
    return " ".join(first.split())[:200] if isinstance(first, str) else ""


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9.]", "", text.lower())
