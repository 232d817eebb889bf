"""The last sections of the run report: what the run was made with, what was not done; and its warnings."""

from __future__ import annotations

from typing import Any

import yaml

from pipeline.pages.figure import table
from pipeline.pages.phrases import Phrase, html_of, joined, labelled, phrase
from pipeline.pages.text import escape
from pipeline.release.card import without_paths
from pipeline.run.files import sha256_json
from pipeline.run_report.contents import STAGES, Contents

LONGEST = 60  # characters of both values of a config key together; longer ones are not shown
FEW = 100  # answers: below, a share's standard error is up to 5 points and more


def made_with(contents: Contents) -> str:
    """Config, versions and hashes: all that is needed to repeat the run."""
    template = contents.adapter.get("template") or contents.counts("tokens").get("template") or {}
    rows: list[tuple[str, Any]] = [
        (phrase("made-base"), contents.base),
        (phrase("made-commit"), contents.adapter.get("commit")),
        (phrase("hash-of", what=phrase("made-base")), contents.adapter.get("base_hash")),
        (phrase("made-template"), template.get("id")),
        (phrase("hash-of", what=phrase("made-template")), template.get("hash")),
        (phrase("hash-of", what=phrase("made-tokenizer")),
         contents.adapter.get("tokenizer") or contents.counts("tokens").get("tokenizer")),
    ]  # fmt: skip
    for folder, name, _ in STAGES[:4]:
        manifest = contents.manifests.get(folder)
        if manifest:
            rows.append(
                (phrase("hash-of", what=labelled(name)), sha256_json([manifest["key"], manifest["files"]])[:16])
            )
    files = ((contents.manifests.get("dataset") or {}).get("files") or {}).items()
    rows += [(f"dataset/{name}, sha256", entry["sha256"]) for name, entry in files if name.endswith(".jsonl")]
    known = [(name, value) for name, value in rows if value]
    return (
        f"<h3>{html_of(phrase('what-went-in'))}</h3>{table(('', ''), known)}"
        f"<h3>{html_of(phrase('versions'))}</h3>{_versions(contents)}"
        f"<details><summary>{html_of(phrase('every-value'))}</summary>{_config(contents)}</details>"
    )


def _versions(contents: Contents) -> str:
    """Versions by stage, since stages may have been run with different ones."""
    made = [(folder, name) for folder, name, _ in STAGES if (contents.manifests.get(folder) or {}).get("versions")]
    names = dict.fromkeys(name for folder, _ in made for name in contents.manifests[folder]["versions"])
    rows = [
        (name, *(contents.manifests[f]["versions"].get(name, phrase("not-known")) for f, _ in made)) for name in names
    ]
    if "commit" not in names:
        rows.insert(1, ("commit", *(phrase("not-known") for _ in made)))
    return table(("", *(labelled(name) for _, name in made)), rows)


def config_text(contents: Contents) -> str:
    """Every value of the config as YAML, without folders of this machine."""
    try:
        values: Any = yaml.safe_load(contents.text) if contents.text else contents.config.model_dump(mode="json")
    except yaml.YAMLError:
        values = contents.config.model_dump(mode="json")
    return str(yaml.safe_dump(without_paths(values), sort_keys=False, allow_unicode=True, width=100))


def _config(contents: Contents) -> str:
    return f'<pre class="scroll" tabindex="0">{escape(config_text(contents))}</pre>'


def not_done(contents: Contents) -> str:
    """Results and measurements that are missing, and limits of those that are there."""
    config, tuned = contents.config, contents.results.get("tuned") or {}
    lines: list[Phrase] = [
        joined([labelled(name), contents.missing(folder, "not-made")], ": ")
        for folder, name, _ in STAGES
        if not contents.has(folder)
    ]
    if not config.data.benchmarks:
        lines.append(phrase("gap-benchmarks"))
    if contents.data is not None and not contents.data.get("val"):
        lines.append(phrase("gap-val"))
    if contents.data is not None and not contents.data.get("holdout"):
        lines.append(phrase("gap-holdout"))
    measured = [tuned[split]["answers"] for split in ("val", "holdout") if "answers" in tuned.get(split, {})]
    if tuned and not measured:
        lines.append(phrase("gap-exact"))
    few = [str(n) for n in measured if n < FEW]
    if few:
        lines.append(phrase("gap-few", n=joined(few, ", ")))
    if contents.has("adapter") and config.adapter.method != "none":
        lines.append(phrase("gap-seed"))
    if tuned:
        lines.append(phrase("gap-greedy"))
    items = "".join(f"<li>{html_of(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if lines else f"<p>{html_of(phrase('no-gap'))}</p>"


def warnings(contents: Contents) -> list[str]:
    """Warnings as HTML: stale results, another config, and those of the probes."""
    names = {folder: name for folder, name, _ in STAGES}
    lines = [f"{html_of(labelled(names[folder]))}: {html_of(why)}." for folder, why in contents.old.items()]
    if not contents.readable:
        lines.append(html_of(phrase("unreadable-config")))
    if contents.differs:
        shown = [_change(key, *values) for key, values in list(contents.differs.items())[:8]]
        rest = len(contents.differs) - len(shown)
        shown += [phrase("more-names", n=rest)] if rest > 0 else []
        lines.append(html_of(phrase("config-differs", keys=joined(shown, ", "))))
    for when, raised in (("when-trained", contents.probes), ("when-exported", contents.results)):
        for one in raised.get("warnings") or ():
            values = {"when": phrase(when), "cause": one["cause"], "fix": one["fix"]}
            lines.append(f"<b>{escape(one['said'])}</b> {html_of(phrase('warning', **values))}")
    return lines


def _change(key: str, then: Any, now: Any) -> str:
    short = len(str(then)) + len(str(now)) < LONGEST
    return phrase("key-differs", key=key, then=then, now=now) if short else key
