"""The export stage: a run's base and adapter become a checkpoint that was checked and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipeline.config.method_rules import spec_of
from pipeline.config.portable_paths import shortener
from pipeline.config.schema import Config
from pipeline.config.schema import Export as Settings
from pipeline.dataset.examples import example_rows
from pipeline.evaluation.probe_causes import Facts, advice
from pipeline.evaluation.results import compare_answers, rows_of_table
from pipeline.model import adapter as adapters
from pipeline.model.base import Base
from pipeline.model.exported import export_dtype
from pipeline.model.methods.full import FULL
from pipeline.model.run_base import RunBase
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.release import verify
from pipeline.release.card import card, column_names
from pipeline.release.export import Export
from pipeline.release.format_cards import write_format_cards
from pipeline.release.formats import check_gguf, extra_space, section, write_formats
from pipeline.release.in_memory import InMemory
from pipeline.release.licence_files import write_licence_files
from pipeline.release.shards.merge import ShardMerge
from pipeline.release.shards.plan import plan_of
from pipeline.release.summary import headline, table, unfinished_text
from pipeline.release.terms import as_data, parties
from pipeline.run.errors import UserError
from pipeline.run.files import need_space, read_json, write_json, write_text
from pipeline.run.folder import Run, StageOutput
from pipeline.run.next_command import next_command
from pipeline.run.progress import say
from pipeline.run.width import WIDTH, clipped

CHECKED_ROWS = 200  # on which tokenizers are compared, and the first of them log-probabilities
LONG = ("said", "by_task", "by_group", "by_kind", "sums", "counts")  # of the results; not in the manifest


def export(config: Config, run: Run, base: Base, stage_key: dict[str, Any]) -> None:
    """Measures the base, merges, saves, reloads, checks, measures again, and writes the card.

    Adapters that cannot be merged are exported as adapters (`release.unmerged`).

    Raises:
        UserError: a check failed (named), or the disk is full. An earlier export stays. Answers that do not end by
            themselves are no failure: the export is marked as unfinished.
    """
    torch.manual_seed(0)
    run_base = RunBase.of(config, base)
    examples = example_rows(run.folder("dataset"), CHECKED_ROWS)
    dtype, kind = export_dtype(config.export, config.model), spec_of(config.adapter).export
    checks = verify.Checks()
    _check_recipe(run.folder("adapter"), run_base.encoder, checks)
    method = adapters.method_of(config.adapter)
    if kind != "nothing" and method is not FULL:  # before anything that takes minutes
        verify.adapter_has_learnt(run.folder("adapter"), method, checks)

    work = Export(run, run_base, dtype, config.export.min_eos, config.eval, config.data, examples, checks)
    way = _way(work, config.export)
    results: dict[str, Any] = {"base": way.base()}
    with run.writing("export", stage_key) as output:
        results["tuned"] = way.save(output.folder)
        if way.left_out:
            results |= {"warnings": [], "left_out": way.left_out}
        else:
            facts = Facts.of(config.prompt, config.train, run, (run.manifest("adapter") or {}).get("counts", {}))
            warnings = compare_answers(results["base"], results["tuned"], facts)
            results["warnings"] = warnings if kind != "nothing" else []  # their causes are in the training
        if checks.unfinished:
            results["unfinished"] = checks.unfinished
        if formats := write_formats(work, config.export, config.name, way.log_probs, output.folder):
            results["formats"] = formats
        _write_records(config, run, run_base, results, checks, output)
    show(config, run, results)


def _way(work: Export, settings: Settings) -> ShardMerge | InMemory:
    """How this run is exported, after its disk space was checked.

    Raises:
        UserError: the adapter belongs to another base; the disk or the memory is too small.
    """
    base, folder = work.base, work.run.folder("adapter")
    if spec_of(base.adapter).export != "merged":
        return InMemory(work, settings)
    plan = plan_of(base, folder, work.dtype)
    if isinstance(plan, str):
        say(f"export: merged in memory, since {plan}")
        work.checks.done["merge"] = f"in memory, since {plan}"
        return InMemory(work, settings)
    if "gguf" in settings.formats:
        check_gguf(work, plan.skeleton.model.config, plan.rows)
    need_space(work.run.folder("export"), plan.layout.size + extra_space(settings, plan.parameters), "the export")
    way = ShardMerge(work, plan, settings.merge_into)
    if way.left_out and len(settings.formats) > 1:
        what = f"further formats are checked with the model in memory, and it {way.left_out}"
        raise UserError(what, "export.formats", "set export.formats=[hf], or free memory")
    return way


def _write_records(
    config: Config, run: Run, base: RunBase, results: dict[str, Any], checks: verify.Checks, output: StageOutput
) -> None:
    """Writes results, record, cards and texts of licences into the export's folder."""
    encoder, found = base.encoder, parties(config, base.files.folder)
    write_json(output.folder / "results.json", results)
    method, trained = adapters.method_of(config.adapter), read_json(run.folder("adapter") / "suri.json") or {}
    record = {
        "method": method.name,
        "holds": method.spec.export,
        **{key: trained[key] for key in ("adapter", "base", "base_hash", "commit") if key in trained},
        "template": {"id": encoder.template.id, "hash": encoder.template.hash},
        "tokenizer": encoder.tokenizer.hash,
        "end_id": encoder.end_id,
        "terms": as_data(found),
        "checks": checks.done,
        **({"formats": results["formats"]} if "formats" in results else {}),
        **({"unfinished": True} if checks.unfinished else {}),
    }
    write_json(output.folder / "suri.json", record)
    formats = results.get("formats", {})
    text = card(config, run, encoder, results, checks.done, found) + section(formats)
    write_text(output.folder / "README.md", shortener(run.root, config)(text))
    write_format_cards(config, encoder, formats, found, output.folder)
    write_licence_files(base.files.folder, found, config.name, output.folder)
    short = {name: values for name, values in results["tuned"].items() if name not in ("prompts", "known")}
    output.counts = {name: {k: v for k, v in values.items() if k not in LONG} for name, values in short.items()}
    if checks.unfinished:
        output.counts["unfinished"] = checks.unfinished


def _check_recipe(adapter: Path, encoder: AnyEncoder, checks: verify.Checks) -> None:
    """Checks that the training has finished, and was made with this template and tokenizer."""
    if not (adapter / "suri.json").is_file():
        fix = f"`{next_command('train')}` continues it; the export comes after it"
        raise UserError("the training of this run has not finished, there is nothing to export", str(adapter), fix)
    record = read_json(adapter / "suri.json") or {}
    trained, now = record.get("template", {}).get("hash"), encoder.template.hash
    if trained != now:
        raise checks.fail("template", f"trained with {trained}, now {now}", "train again, or put the template back")
    trained, now = record.get("tokenizer"), encoder.tokenizer.hash
    if trained != now:
        raise checks.fail("tokenizer", f"trained with {trained}, now {now}", "train again")


def show(config: Config, run: Run, results: dict[str, Any]) -> None:
    """Prints the table of results, the answers to `eval.prompts`, warnings, and the folder of the export."""
    names = column_names(config.adapter)
    if left_out := results.get("left_out"):
        say(f"\nexport: no results: the model {left_out}. Where it fits: `{next_command('eval')}` measures both models")
    else:
        say("\n" + table(rows_of_table(results["base"], results["tuned"]), names))
    prompts = [results[who].get("prompts", []) for who in ("base", "tuned")]
    for before, after in zip(*prompts, strict=True):
        say(f"\n> {clipped(before['prompt'], WIDTH - 2)}")
        say(f"  {names[0]:5}: {_flat(before)}")
        say(f"  {names[1]:5}: {_flat(after)}")
    for warning in results["warnings"]:
        say(f"\n{advice(warning)}")
    folder, kind = run.folder("export"), spec_of(config.adapter).export
    if unfinished := results.get("unfinished"):
        say(f"\nUNFINISHED: {unfinished_text(unfinished)}. The export is complete otherwise, and marked as unfinished.")
    if text := headline(results):
        say(f"\nexport: {text}")
    what = {"merged": "checkpoint, which stock transformers loads,", "adapter": "adapter", "nothing": "tokenizer"}[kind]
    say(f"export: the {what} and its card, README.md, are in {folder}")


def _flat(answer: dict[str, Any]) -> str:
    text = " ".join(answer["said"].split())
    return clipped(text, 2 * WIDTH - 40) + ("" if answer["stopped"] else " [did not stop]")
