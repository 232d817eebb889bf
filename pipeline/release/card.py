"""The model card of an export: what the checkpoint is, how it was made, its results, and whose terms it is under."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.method_rules import description, spec_of
from pipeline.config.schema import Adapter, Config, Model
from pipeline.evaluation.general import forgetting
from pipeline.evaluation.results import rows_of_table
from pipeline.evaluation.scores import shown
from pipeline.model import card as cards
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.release import hardware, terms, usage
from pipeline.release.front_matter import front_matter_of
from pipeline.release.summary import unfinished_text
from pipeline.release.terms import Party
from pipeline.run.files import read_json
from pipeline.run.folder import SPLITS, Run
from pipeline.run.markdown import code, fenced, plain

LIMITS = (
    "It was tuned to follow instructions, and neither tested nor aligned for safety. It may state what is wrong, and "
    "what its base and its data hold may come out of it."
)


def card(
    config: Config, run: Run, encoder: AnyEncoder, results: dict[str, Any], checks: dict[str, str],
    found: Sequence[Party] | None = None,
) -> str:  # fmt: skip
    """Markdown with the hub's front matter, without paths of this machine.

    Args:
        results, checks: of the export. found: whose terms apply; None = as the config alone tells.
    """
    adapter = run.manifest("adapter") or {}
    rows, commit = row_counts(run), (read_json(run.folder("adapter") / "suri.json") or {}).get("commit")
    found = terms.parties(config, None) if found is None else found
    recipe = without_paths(config.model_dump(mode="json", exclude_defaults=True))
    front = front_matter_of(config, run, found, results)
    front["tags"] = ["suri", "instruction-tuning", encoder.template.id]
    trained = hardware.section(adapter.get("counts", {}))
    sections = [
        cards.front_matter(front),
        f"# {config.name}",
        *([f"> **Unfinished:** {unfinished_text(results['unfinished'])}."] if "unfinished" in results else []),
        f"Made by Suri from {_origin(config.model, commit)}: {description(config.adapter)}. "
        f"{rows['train']:,} instructions, {adapter.get('counts', {}).get('steps', 0):,} steps."
        + _ending(adapter.get("counts", {})),
        *_conflicts(found, config.name),
        "## Use",
        usage.section(config.adapter, config.model, results.get("formats", {})),
        cards.prompt_section(encoder),
        LIMITS,
        "## Results",
        *_results(config, results),
        "## Checked at export",
        "\n".join(f"- {plain(name)}: {plain(result)}" for name, result in checks.items()),
        "## Licences",
        terms.section(found, config.name),
        *(["## Hardware, time, energy", trained] if trained else []),
        "## Recipe",
        fenced(str(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)).strip(), "yaml"),
        "## Data",
        _hashes(run),
        f"Rows: {rows['train']:,} train, {rows['val']:,} held out, {rows['holdout']:,} of tasks never trained on, "
        f"{rows['rejected']:,} rejected"
        + (f", {rows['too long']:,} of them as too long." if rows["too long"] else "."),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in adapter.get("versions", {}).items()) + ".",
    ]
    return "\n\n".join(sections) + "\n"


def _results(config: Config, results: dict[str, Any]) -> list[str]:
    """The table of results; why there is none, where they were left out."""
    if left_out := results.get("left_out"):
        return [f"None: where this model was exported, it {left_out}. So neither model was measured."]
    table = [f"| {plain(a)} | {b} | {c} |" for a, b, c in rows_of_table(results["base"], results["tuned"])]
    heading = "| | {} | {} |".format(*column_names(config.adapter, "this model"))
    return [
        "\n".join([heading, "|---|---|---|", *table]),
        "Greedy decoding, both models prompted with the training template. *Contained* counts answers that contain "
        "the reference.",
        *_forgetting(results),
    ]


def row_counts(run: Run) -> dict[str, int]:
    """Rows of each split, and rows that the data stage and the tokens stage rejected."""
    data, tokens = ((run.manifest(stage) or {}).get("counts", {}) for stage in ("dataset", "tokens"))
    rows = {split: tokens.get(split, {}).get("rows", data.get(split, 0)) for split in SPLITS}
    too_long = sum(tokens.get(split, {}).get("rejected", 0) for split in rows)
    return {**rows, "rejected": data.get("rejected", 0) + too_long, "too long": too_long}


def without_paths(value: Any) -> Any:
    """The same plain data with every absolute path shortened to its last part."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~")):
        return Path(value).name
    return value


def column_names(adapter: Adapter, tuned: str = "tuned") -> tuple[str, str]:
    """Headings of the two models in the table of results."""
    return ("0-shot", f"{adapter.shots}-shot") if spec_of(adapter).export == "nothing" else ("base", tuned)


def _origin(model: Model, commit: str | None) -> str:
    if not model.base:
        return "random weights"
    return code(without_paths(model.base)) + (f" at commit `{commit}`" if commit else "")


def _ending(counts: Mapping[str, Any]) -> str:
    """Whether the run ended early, and whether its weights are those of the lowest loss; empty without either.

    Args:
        counts: of the adapter's manifest.
    """
    parts = []
    if planned := counts.get("planned_steps"):
        parts.append(f"training ended early, before step {planned:,}, since the held-out loss stopped falling")
    if best := counts.get("best_step"):
        lowest = f"{counts['best_loss']:.3f}"
        parts.append(f"the weights are those of step {best:,}, with the lowest held-out loss ({lowest})")
    text = "; ".join(parts)
    return f" {text[0].upper()}{text[1:]}." if text else ""


def _conflicts(found: Sequence[Party], name: str) -> list[str]:
    """The conflicts of the terms, at the top; the section on licences has the rest."""
    lines = terms.conflicts(found, name)
    return ["\n>\n".join(f"> {line}" for line in lines)] if lines else []


def _forgetting(results: Mapping[str, Any]) -> list[str]:
    """How the loss on general text changed; nothing where it was not measured."""
    base, tuned = results["base"].get("general"), results["tuned"].get("general")
    if not base or not tuned:
        return []
    change, error = forgetting(base, tuned)
    way = "rose" if change > 0 else "fell"
    return [
        f"**Forgetting.** The loss on {tuned['tokens']:,} tokens of general text, on which nothing was trained, {way} "
        f"from {base['loss']:.3f} to {tuned['loss']:.3f} ({shown(change, error, '+.3f')} nats a token)."
    ]


def _hashes(run: Run) -> str:
    """sha256 of the files that the data was read from, and of what was made of them."""
    data = run.manifest("dataset") or {}
    inputs = [(without_paths(name), entry) for name, entry in (data.get("key", {}).get("inputs") or {}).items()]
    made = [(f"dataset/{name}", entry) for name, entry in data.get("files", {}).items() if name.endswith(".jsonl")]
    lines = [f"| {code(name)} | {entry['sha256']} |" for name, entry in [*inputs, *made]]
    return "\n".join(["| file | sha256 |", "|---|---|", *lines])
