"""The metadata at the top of a model card, which the hub reads, and a check of it that needs no network.

Rules: modelcard.md, docs/hub/model-cards.md and docs/hub/repositories-licenses.md of
https://github.com/huggingface/hub-docs. The hub's own check (`ModelCard.validate`) is a request to the hub.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.method_rules import spec_of
from pipeline.config.schema import Config
from pipeline.dataset.licences import Licence
from pipeline.dataset.read.source import HUB_ID
from pipeline.model.base import kind_of
from pipeline.release.terms import Party, is_under_base_terms
from pipeline.run.files import read_json
from pipeline.run.folder import HELD_OUT, Run

SEVERAL = "LICENSE.md"  # the file that a card links to where terms of several apply
RELATIONS = ("adapter", "merge", "quantized", "finetune")
LIBRARIES = ("transformers", "peft", "gguf")
# Of the hub's page on licences; those of Llama 3 and later as model cards on the hub have them.
HUB_LICENCES = frozenset({
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0",
    "etalab-2.0", "eupl-1.1", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0",
    "isc", "lppl-1.3c", "ms-pl", "mpl-2.0", "odc-by", "odbl", "openrail++", "osl-3.0", "postgresql", "ofl-1.1",
    "ncsa", "unlicense", "zlib", "pddl", "lgpl-lr", "deepfloyd-if-license", "llama2", "llama3", "llama3.1",
    "llama3.2", "llama3.3", "gemma", "unknown", "other",
})  # fmt: skip
SMALLEST_SHARE = 0.01  # of the rows, for a language to be named
METRICS = {"loss": "loss", "exact": "exact_match", "perplexity": "perplexity"}


def front_matter_of(config: Config, run: Run, found: Sequence[Party], results: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of an export. found: whose terms apply. results: of the export."""
    method = spec_of(config.adapter)
    is_adapter = method.export == "adapter"
    front: dict[str, Any] = {}
    if languages := _languages(run):
        front["language"] = languages
    front |= licence_keys(found)
    front["library_name"] = "peft" if is_adapter and method.is_peft else "transformers"
    front["pipeline_tag"] = "text-generation"
    front |= base_keys(config, "adapter" if is_adapter else "finetune" if method.export == "merged" else "")
    if datasets := hub_datasets(config):
        front["datasets"] = datasets
    tuned = results.get("tuned", {})
    if index := model_index(config.name, datasets, tuned):
        types = {metric["type"] for result in index[0]["results"] for metric in result["metrics"]}
        front["metrics"] = sorted(types - {"loss"}) or None
        front["model-index"] = index
    return {key: value for key, value in front.items() if value is not None}


def licence_keys(found: Sequence[Party]) -> dict[str, Any]:
    """`license`, `license_name`, `license_link`: the base's own licence where data and teachers ask for nothing more,
    and else `other` with a link to all terms; empty where the base's licence is not known."""
    base = next((party for party in found if party.role == "base"), None)
    if not is_under_base_terms(found):
        return {"license": "other", "license_name": "several", "license_link": SEVERAL}
    if base is None or not base.text:
        return {}
    licence = base.licence or _by_text(base.text)
    if licence.id != "other":
        return {"license": licence.id}
    return {"license": "other", "license_name": licence.slug, "license_link": licence.link or SEVERAL}


def base_keys(config: Config, relation: str) -> dict[str, str]:
    """`base_model` and how this model comes from it; the base is named only when it is on the hub."""
    if kind_of(config.model) != "hub":
        return {}
    return {"base_model": config.model.base, **({"base_model_relation": relation} if relation else {})}


def hub_datasets(config: Config) -> list[str]:
    """The sources that are on the hub."""
    paths = dict.fromkeys(source.path for source in config.data.sources)
    return [path for path in paths if HUB_ID.match(path) and "/" in path and not Path(path).exists()
            and not Path(path).suffix]  # fmt: skip


def model_index(name: str, datasets: Sequence[str], tuned: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Results in the hub's form; empty without any. tuned: results of the export."""
    results = []
    task = {"type": "text-generation", "name": "Text generation"}
    for split, title in HELD_OUT.items():
        if metrics := _metrics(tuned.get(split), ("loss", "exact")):
            kind = datasets[0] if len(datasets) == 1 else name
            data = {"type": kind, "name": f"{name}: {title}", "split": split}
            results.append({"task": task, "dataset": data, "metrics": metrics})
    if metrics := _metrics(tuned.get("general"), ("loss", "perplexity")):
        results.append({"task": task, "dataset": {"type": "general", "name": "General text"}, "metrics": metrics})
    return [{"name": name, "results": [{**result, "task": dict(task)} for result in results]}] if results else []


def problems(front: Any) -> list[str]:
    """What the hub would refuse or ignore in a card's metadata; empty when it is fine."""
    if not isinstance(front, dict):
        return ["there is no metadata"]
    wrong = [*_licence_problems(front)]
    wrong += [f"language {code!r} is no code of two or three letters" for code in _texts(front.get("language"))
              if not re.fullmatch(r"[a-z]{2,3}|multilingual|code", code)]  # fmt: skip
    for key in ("base_model", "datasets"):
        wrong += [f"{key} {id!r} is no id on the hub" for id in _texts(front.get(key)) if not HUB_ID.match(id)]
    relation = front.get("base_model_relation")
    if relation is not None and (relation not in RELATIONS or "base_model" not in front):
        wrong.append(f"base_model_relation {relation!r} is none of {', '.join(RELATIONS)}, or without base_model")
    if front.get("library_name") not in (None, *LIBRARIES):
        wrong.append(f"library_name {front['library_name']!r} is none of {', '.join(LIBRARIES)}")
    if "pipeline_tag" in front and front["pipeline_tag"] != "text-generation":
        wrong.append(f"pipeline_tag {front['pipeline_tag']!r} is not text-generation")
    return wrong + _index_problems(front.get("model-index"))


def _licence_problems(front: Mapping[str, Any]) -> list[str]:
    stated = front.get("license")
    if stated is None:
        return []
    if stated not in HUB_LICENCES:
        return [f"license {stated!r} is no identifier of the hub"]
    if stated == "other" and not (front.get("license_name") and front.get("license_link")):
        return ["license other needs license_name and license_link"]
    link = str(front.get("license_link", ""))
    if link and link not in ("LICENSE", SEVERAL) and not link.startswith("https://"):
        return [f"license_link {link!r} is neither an address nor LICENSE or LICENSE.md"]
    return []


def _index_problems(index: Any) -> list[str]:
    if index is None:
        return []
    from huggingface_hub.repocard_data import model_index_to_eval_results

    try:
        _, read = model_index_to_eval_results(index)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return [f"model-index cannot be read: {type(error).__name__} {error}"]
    return [f"model-index: {result.metric_type} is {result.metric_value!r}, no number" for result in read
            if not isinstance(result.metric_value, int | float) or not math.isfinite(result.metric_value)]  # fmt: skip


def _metrics(values: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """The finite ones among the named numbers; exact match as a share of 1."""
    if not isinstance(values, Mapping):
        return []
    numbers = [(name, values[name]) for name in names if isinstance(values.get(name), int | float)]
    return [{"type": METRICS[name], "value": round(float(value), 4)} for name, value in numbers if math.isfinite(value)]


def _languages(run: Run) -> list[str]:
    """Codes of the languages of the data, the most frequent first."""
    report = read_json(run.folder("dataset") / "report.json")
    counts = report.get("languages") if isinstance(report, dict) else None
    if not isinstance(counts, dict):
        return []
    rows = sum(counts.values())
    ordered = sorted(counts, key=lambda code: (-counts[code], code))
    return [code for code in ordered if re.fullmatch(r"[a-z]{2,3}", code) and code not in ("zxx", "und")
            and counts[code] >= SMALLEST_SHARE * rows]  # fmt: skip


def _by_text(text: str) -> Licence:
    """A licence that is not in the table, as its base's card names it."""
    slug = re.sub(r"[^a-z0-9.+]+", "-", text.lower()).strip("-")
    return Licence(slug, text) if slug in HUB_LICENCES - {"other"} else Licence("other", text, "", slug or "unnamed")


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    return [str(one) for one in values]
