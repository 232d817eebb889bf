"""The last sections of a run's page: what it was made with, what was not done, and what to beware of."""

from __future__ import annotations

from typing import Any

import yaml

from pipeline.pages.figure import table
from pipeline.pages.text import escape
from pipeline.release.card import without_paths
from pipeline.run.files import sha256_json
from pipeline.run_report.parts import PARTS, Parts

LONGEST = 60  # letters of both values of a config key that are shown
FEW = 100  # answers: below, a share's standard error is up to 5 points and more


def made_with(parts: Parts) -> str:
    """Config, versions and hashes: all that making it again asks for."""
    template = parts.adapter.get("template") or parts.counts("tokens").get("template") or {}
    rows = [
        ("base", parts.base),
        ("commit of the base", parts.adapter.get("commit")),
        ("hash of the base", parts.adapter.get("base_hash")),
        ("template", template.get("id")),
        ("hash of the template", template.get("hash")),
        ("hash of the tokenizer", parts.adapter.get("tokenizer") or parts.counts("tokens").get("tokenizer")),
    ]
    for folder, what, _ in PARTS[:4]:
        manifest = parts.manifests.get(folder)
        if manifest:
            rows.append((f"hash of {what}", sha256_json([manifest["key"], manifest["files"]])[:16]))
    files = ((parts.manifests.get("dataset") or {}).get("files") or {}).items()
    rows += [(f"dataset/{name}, sha256", entry["sha256"]) for name, entry in files if name.endswith(".jsonl")]
    known = [(name, value) for name, value in rows if value]
    return (
        f"<h3>What went in</h3>{table(('', ''), known)}<h3>Versions</h3>{_versions(parts)}"
        f"<details><summary>Config: every value</summary>{_config(parts)}</details>"
    )


def _versions(parts: Parts) -> str:
    """Of each stage, since they may have been made on other days."""
    there = [(folder, what) for folder, what, _ in PARTS if (parts.manifests.get(folder) or {}).get("versions")]
    names = dict.fromkeys(name for folder, _ in there for name in parts.manifests[folder]["versions"])
    rows = [(name, *(parts.manifests[f]["versions"].get(name, "not known") for f, _ in there)) for name in names]
    if "commit" not in names:
        rows.insert(1, ("commit", *("not known" for _ in there)))
    return table(("", *(what for _, what in there)), rows)


def _config(parts: Parts) -> str:
    try:
        values: Any = yaml.safe_load(parts.text) if parts.text else parts.config.model_dump(mode="json")
    except yaml.YAMLError:
        values = parts.config.model_dump(mode="json")
    text = yaml.safe_dump(without_paths(values), sort_keys=False, allow_unicode=True, width=100)
    return f'<pre class="scroll" tabindex="0">{escape(text)}</pre>'


def not_done(parts: Parts) -> str:
    """What a reader might think was done, and was not."""
    config, tuned = parts.config, parts.results.get("tuned") or {}
    said = [
        f"{what[0].upper()}{what[1:]}: {parts.missing(folder, 'not made')}"
        for folder, what, _ in PARTS
        if not parts.has(folder)
    ]
    if not config.data.benchmarks:
        said.append("The rows were not compared with test questions (data.benchmarks is empty).")
    if parts.data is not None and not parts.data.get("val"):
        said.append("No rows were held out (data.val is 0), so there is no loss on rows that were not learnt.")
    if parts.data is not None and not parts.data.get("holdout"):
        said.append("No task was held out, so nothing is known about tasks that were never trained on.")
    measured = [tuned[part]["answers"] for part in ("val", "holdout") if "answers" in tuned.get(part, {})]
    if tuned and not measured:
        said.append("No row has one right answer (exact), so no answer was marked right or wrong.")
    few = [n for n in measured if n < FEW]
    if few:
        said.append(f"Exact match rests on {' and '.join(map(str, few))} answers: read its standard error.")
    if parts.has("adapter") and config.adapter.method != "none":
        said.append("One run with one seed: how far another seed would come out is not known.")
    if tuned:
        said.append("All answers are greedy; no sampling was tried.")
    return f"<ul>{''.join(f'<li>{line}</li>' for line in said)}</ul>" if said else "<p>Nothing is missing.</p>"


def warnings(parts: Parts) -> list[str]:
    """What to beware of, as HTML: stale parts, another config, and what the probes saw."""
    names = {folder: what for folder, what, _ in PARTS}
    found = [f"{escape(names[folder])}: {escape(why)}." for folder, why in parts.old.items()]
    if not parts.readable:
        found.append(
            "config.yaml in the run's folder cannot be read by this version of Suri: what this page says of the "
            "config, of the template and of the plan is that of the config given now."
        )
    if parts.differs:
        shown = [_change(key, *values) for key, values in list(parts.differs.items())[:8]]
        rest = len(parts.differs) - len(shown)
        more = f" and {rest} more" if rest > 0 else ""
        found.append(
            f"The config given now differs from the one in the run's folder: {escape(', '.join(shown))}{more}. "
            "The numbers are those of the folder."
        )
    for when, raised in (("after training", parts.probes), ("at export", parts.results)):
        for one in raised.get("warnings") or ():
            found.append(
                f"<b>{escape(one['said'])}</b> ({when}). Likely: {escape(one['cause'])}. To do: {escape(one['fix'])}."
            )
    return found


def _change(key: str, then: Any, now: Any) -> str:
    short = len(str(then)) + len(str(now)) < LONGEST
    return f"{key} ({then}, now {now})" if short else key
