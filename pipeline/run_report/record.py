"""The last sections of the run report: what the run was made with, what was not done; and its warnings."""

from __future__ import annotations

from typing import Any

import yaml

from pipeline.pages.figure import table
from pipeline.pages.text import escape
from pipeline.release.card import without_paths
from pipeline.run.files import sha256_json
from pipeline.run_report.contents import STAGES, Contents

LONGEST = 60  # characters of both values of a config key together; longer ones are not shown
FEW = 100  # answers: below, a share's standard error is up to 5 points and more


def made_with(contents: Contents) -> str:
    """Config, versions and hashes: all that is needed to repeat the run."""
    template = contents.adapter.get("template") or contents.counts("tokens").get("template") or {}
    rows = [
        ("base", contents.base),
        ("commit of the base", contents.adapter.get("commit")),
        ("hash of the base", contents.adapter.get("base_hash")),
        ("template", template.get("id")),
        ("hash of the template", template.get("hash")),
        ("hash of the tokenizer", contents.adapter.get("tokenizer") or contents.counts("tokens").get("tokenizer")),
    ]
    for folder, name, _ in STAGES[:4]:
        manifest = contents.manifests.get(folder)
        if manifest:
            rows.append((f"hash of {name}", sha256_json([manifest["key"], manifest["files"]])[:16]))
    files = ((contents.manifests.get("dataset") or {}).get("files") or {}).items()
    rows += [(f"dataset/{name}, sha256", entry["sha256"]) for name, entry in files if name.endswith(".jsonl")]
    known = [(name, value) for name, value in rows if value]
    return (
        f"<h3>What went in</h3>{table(('', ''), known)}<h3>Versions</h3>{_versions(contents)}"
        f"<details><summary>Config: every value</summary>{_config(contents)}</details>"
    )


def _versions(contents: Contents) -> str:
    """Versions by stage, since stages may have been run with different ones."""
    made = [(folder, name) for folder, name, _ in STAGES if (contents.manifests.get(folder) or {}).get("versions")]
    names = dict.fromkeys(name for folder, _ in made for name in contents.manifests[folder]["versions"])
    rows = [(name, *(contents.manifests[f]["versions"].get(name, "not known") for f, _ in made)) for name in names]
    if "commit" not in names:
        rows.insert(1, ("commit", *("not known" for _ in made)))
    return table(("", *(name for _, name in made)), rows)


def _config(contents: Contents) -> str:
    try:
        values: Any = yaml.safe_load(contents.text) if contents.text else contents.config.model_dump(mode="json")
    except yaml.YAMLError:
        values = contents.config.model_dump(mode="json")
    text = yaml.safe_dump(without_paths(values), sort_keys=False, allow_unicode=True, width=100)
    return f'<pre class="scroll" tabindex="0">{escape(text)}</pre>'


def not_done(contents: Contents) -> str:
    """Results and measurements that are missing, and limits of those that are there."""
    config, tuned = contents.config, contents.results.get("tuned") or {}
    lines = [
        f"{name[0].upper()}{name[1:]}: {contents.missing(folder, 'not made')}"
        for folder, name, _ in STAGES
        if not contents.has(folder)
    ]
    if not config.data.benchmarks:
        lines.append("The rows were not compared with test questions (data.benchmarks is empty).")
    if contents.data is not None and not contents.data.get("val"):
        lines.append("No rows were held out (data.val is 0), so there is no held-out loss.")
    if contents.data is not None and not contents.data.get("holdout"):
        lines.append("No task was held out, so nothing is known about tasks that were never trained on.")
    measured = [tuned[split]["answers"] for split in ("val", "holdout") if "answers" in tuned.get(split, {})]
    if tuned and not measured:
        lines.append("No row has one right answer (exact), so no answer was marked right or wrong.")
    few = [n for n in measured if n < FEW]
    if few:
        lines.append(f"Exact match rests on {' and '.join(map(str, few))} answers: read its standard error.")
    if contents.has("adapter") and config.adapter.method != "none":
        lines.append("One run with one seed: how far another seed would come out is not known.")
    if tuned:
        lines.append("All answers are greedy; no sampling was tried.")
    return f"<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>" if lines else "<p>Nothing is missing.</p>"


def warnings(contents: Contents) -> list[str]:
    """Warnings as HTML: stale results, another config, and those of the probes."""
    names = {folder: name for folder, name, _ in STAGES}
    lines = [f"{escape(names[folder])}: {escape(why)}." for folder, why in contents.old.items()]
    if not contents.readable:
        lines.append(
            "config.yaml in the run's folder cannot be read by this version of Suri: on this page the "
            "config, the template and the plan are those of the config given now."
        )
    if contents.differs:
        shown = [_change(key, *values) for key, values in list(contents.differs.items())[:8]]
        rest = len(contents.differs) - len(shown)
        more = f" and {rest} more" if rest > 0 else ""
        lines.append(
            f"The config given now differs from the one in the run's folder: {escape(', '.join(shown))}{more}. "
            "The numbers are those of the folder."
        )
    for when, raised in (("after training", contents.probes), ("at export", contents.results)):
        for one in raised.get("warnings") or ():
            lines.append(
                f"<b>{escape(one['said'])}</b> ({when}). Likely: {escape(one['cause'])}. To do: {escape(one['fix'])}."
            )
    return lines


def _change(key: str, then: Any, now: Any) -> str:
    short = len(str(then)) + len(str(now)) < LONGEST
    return f"{key} ({then}, now {now})" if short else key
