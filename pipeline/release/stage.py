"""The export stage: base + adapter in, a merged checkpoint out that was checked and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig

from pipeline.config.method_rules import spec_of
from pipeline.config.portable_paths import shortener
from pipeline.config.schema import Config
from pipeline.dataset.examples import example_rows
from pipeline.evaluation.measure import base_key
from pipeline.evaluation.probe_causes import Facts, advice
from pipeline.evaluation.results import compare_answers, rows_of_table
from pipeline.model import adapter as adapters
from pipeline.model import hf_tokenizer
from pipeline.model.base import Base
from pipeline.model.exported import base_with_tokens, export_dtype, free_memory
from pipeline.model.fingerprint import fingerprint
from pipeline.model.load import BYTES, DTYPES, cast, dtype_name, load_folder
from pipeline.model.methods.full import FULL
from pipeline.model.methods.own_form import OwnForm
from pipeline.prompt.encode import Encoder
from pipeline.prompt.stage import encoder_of
from pipeline.release import verify
from pipeline.release.card import card, column_names
from pipeline.release.unmerged import Work, unmerged, without_training
from pipeline.run.errors import UserError
from pipeline.run.files import need_space, read_json, write_json, write_text
from pipeline.run.folder import Run, StageOutput
from pipeline.run.progress import say

CHECKED_ROWS = 200  # on which logits and tokenizers are compared
LONG = ("said", "by_task", "by_group", "by_kind", "sums", "counts")  # of the results; they stay out of the manifest


def export(config: Config, run: Run, base: Base, stage_key: dict[str, Any]) -> None:
    """Measures the base, merges, saves, reloads, checks, measures again, and writes the card.

    What cannot be merged is exported as it is (`release.unmerged`).

    Raises:
        UserError: a check failed (named), or the disk is full. The export that was there stays.
    """
    torch.manual_seed(0)
    encoder = encoder_of(config, base.tokenizer)
    examples = example_rows(run.folder("dataset"), CHECKED_ROWS)
    dtype = export_dtype(config)
    checks = verify.Checks()
    _same_recipe(run, encoder, checks)
    method = adapters.method_of(config.adapter)
    if method.spec.export != "nothing" and method is not FULL:  # before anything that takes minutes
        verify.adapter_has_learnt(run.folder("adapter"), method, checks)

    plain = base_with_tokens(config, base, encoder)
    need_space(run.root, 2 * BYTES[dtype] * plain.num_parameters(), "the export")
    work = Work(config, run, base, encoder, examples, checks)
    results: dict[str, Any] = {"base": work.measure(work.measured(plain, "base", base_key(config)))}
    base_says = verify.log_probabilities(plain, encoder, examples)
    held = [plain]  # whoever takes the base out of here is the only one to hold it, and can give it back
    del plain
    merged, merged_says = _merged(work, held, base_says, dtype) if method.spec.export == "merged" else (None, base_says)
    with run.writing("export", stage_key) as output:
        if method.spec.export == "nothing":
            results["tuned"] = without_training(work, held, output)
        elif method.spec.export == "adapter":
            results["tuned"] = unmerged(work, held, base_says, output)
        else:
            _save(merged, encoder, output.folder)
            del merged
            free_memory()
            reloaded = load_folder(output.folder, DTYPES[dtype])
            verify.reload_equals_merged(merged_says, verify.log_probabilities(reloaded, encoder, examples), checks)
            tokenizer = AutoTokenizer.from_pretrained(output.folder, local_files_only=True)
            verify.tokenizer_agrees(tokenizer, encoder, examples, checks)
            results["tuned"] = work.checked(reloaded, output.folder)
        facts = Facts.of(config, run, (run.manifest("adapter") or {}).get("counts", {}))
        warnings = compare_answers(results["base"], results["tuned"], facts)
        # Where nothing was trained, a cause would be looked for in the training.
        results["warnings"] = warnings if method.spec.export != "nothing" else []
        _write_records(config, run, encoder, results, checks, output)
    show(config, run, results)


def _merged(work: Work, held: list[Any], base_says: torch.Tensor, dtype: str) -> tuple[Any, torch.Tensor]:
    """The checked model to be exported, in `dtype`, and what it says. `held`: the base, which is taken out.

    Raises:
        UserError: nothing was learnt, or the merged weights say something else than base + adapter.
    """
    config, encoder, folder = work.config, work.encoder, work.run.folder("adapter")
    plain, method = held.pop(), adapters.method_of(config.adapter)
    own = method is FULL or isinstance(method, OwnForm)
    if own:
        verify.change_survives(folder, plain.state_dict(), DTYPES[dtype], work.checks, dtype)
    if method is FULL:
        del plain
        free_memory()
        merged = load_folder(folder, DTYPES[dtype])
        merged_says = verify.log_probabilities(merged, encoder, work.examples)
        verify.weights_have_learnt(merged_says, base_says, work.checks)
        return merged, merged_says
    few = config.model.quantize in ("nf4", "int8")
    if own and not few:  # before what was learnt is put into it
        plain = cast(plain, DTYPES[_merge_dtype(config, dtype)])
    tuned = adapters.load(plain, folder, fingerprint(config, work.base))
    adapter_says = verify.log_probabilities(tuned, encoder, work.examples)
    if few:  # fp8 is made while training, from the base as it is here
        # Merging into 4 or 8 bits would round away what was learnt: the base is put into full precision first.
        del tuned, plain
        free_memory()
        whole = base_with_tokens(config, work.base, encoder).dequantize(dtype=DTYPES[_merge_dtype(config, dtype)])
        whole.is_loaded_in_4bit = whole.is_loaded_in_8bit = False  # transformers leaves it set, and peft asks
        tuned = adapters.load(whole, folder)
    merged = _merge(tuned, config, dtype)
    merged_says = verify.log_probabilities(merged, encoder, work.examples)
    allowed = verify.tolerance(dtype_name(config.model), config.model.quantize, dtype)
    verify.merged_equals_adapter(adapter_says, merged_says, base_says, allowed, work.checks)
    return merged, merged_says


def _write_records(
    config: Config, run: Run, encoder: Encoder, results: dict[str, Any], checks: verify.Checks, output: StageOutput
) -> None:
    """What came out and how it was made, beside the weights."""
    write_json(output.folder / "results.json", results)
    method, trained = adapters.method_of(config.adapter), read_json(run.folder("adapter") / "suri.json") or {}
    made = {
        "method": method.name,
        "holds": method.spec.export,
        **{key: trained[key] for key in ("adapter", "base", "base_hash", "commit") if key in trained},
        "template": {"id": encoder.template.id, "hash": encoder.template.hash},
        "tokenizer": encoder.tokenizer.hash,
        "end_id": encoder.end_id,
        "checks": checks.done,
    }
    write_json(output.folder / "suri.json", made)
    text = card(config, run, encoder, results, checks.done)
    write_text(output.folder / "README.md", shortener(run.root, config)(text))
    parts = {part: found for part, found in results["tuned"].items() if part != "prompts"}
    output.counts = {p: {k: v for k, v in found.items() if k not in LONG} for p, found in parts.items()}


def _same_recipe(run: Run, encoder: Encoder, checks: verify.Checks) -> None:
    """The adapter was trained with this template and tokenizer."""
    made = read_json(run.folder("adapter") / "suri.json") or {}
    trained, now = made.get("template", {}).get("hash"), encoder.template.hash
    if trained != now:
        raise checks.fail("template", f"trained with {trained}, now {now}", "train again, or put the template back")
    trained, now = made.get("tokenizer"), encoder.tokenizer.hash
    if trained != now:
        raise checks.fail("tokenizer", f"trained with {trained}, now {now}", "train again")


def _merge_dtype(config: Config, dtype: str) -> str:
    """The sum of weight and update is rounded once: in float32, unless base and export share a smaller type."""
    return dtype if dtype == dtype_name(config.model) else "fp32"


def _merge(tuned: Any, config: Config, dtype: str) -> Any:
    """The merged model in `dtype`; updates are multiplied out in the adapter's float32."""
    wanted = _merge_dtype(config, dtype)
    if wanted != dtype_name(config.model):
        cast(tuned, DTYPES[wanted])
    return cast(adapters.method_of(config.adapter).merge(tuned), DTYPES[dtype])


def _save(model: Any, encoder: Encoder, folder: Path) -> None:
    """Weights, config, generation config, tokenizer."""
    limit = getattr(model.config, "max_position_embeddings", None)
    tokenizer = hf_tokenizer.build(encoder, limit)
    ends = {"eos_token_id": encoder.end_id, "pad_token_id": tokenizer.pad_token_id}
    for name, id in ends.items():
        setattr(model.config, name, id)
    model.config.use_cache = True
    model.generation_config = GenerationConfig(bos_token_id=encoder.tokenizer.bos_id, do_sample=False, **ends)
    say("export: saving the merged model")
    model.save_pretrained(folder, safe_serialization=True, max_shard_size="5GB")
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    if not tied and (read_json(folder / "config.json") or {}).get("tie_word_embeddings", False):
        raise UserError("config.json says that the head is tied, and it is not", str(folder), verify.REPORT)
    hf_tokenizer.save(tokenizer, encoder, folder)


def show(config: Config, run: Run, results: dict[str, Any]) -> None:
    """The table at the end: before and after, three prompts, where it lies, how to talk to it."""
    rows = rows_of_table(results["base"], results["tuned"])
    width = max([len(a) for a, _, _ in rows] + [0])
    names = column_names(config)
    say(f"\n{'':{width}}  {names[0]:>15}  {names[1]:>15}")
    for what, before, after in rows:
        say(f"{what:{width}}  {before:>15}  {after:>15}")
    for before, after in zip(results["base"]["prompts"], results["tuned"]["prompts"], strict=True):
        say(f"\n> {before['prompt']}")
        say(f"  {names[0]:5}: {_flat(before)}")
        say(f"  {names[1]:5}: {_flat(after)}")
    for warning in results["warnings"]:
        say(f"\n{advice(warning)}")
    folder, holds = run.folder("export"), spec_of(config.adapter).export
    how = {"merged": "stock transformers loads it; ", "adapter": "an adapter, to be put on its base; ", "nothing": ""}
    say(f"\ncheckpoint: {folder}  ({how[holds]}{folder / 'README.md'} is its card)")
    say(f"talk to it: make chat{'' if config.name == 'demo' else ' CONFIG=...'}")


def _flat(said: dict[str, Any]) -> str:
    text = " ".join(said["said"].split())
    return (text if len(text) <= 160 else text[:157] + "...") + ("" if said["stopped"] else " [did not stop]")
