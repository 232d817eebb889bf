"""Puts a run's adapter into the store, with a record, after loading it onto its base."""

from __future__ import annotations

import dataclasses
import shutil
from typing import Any

import torch

from pipeline.config.method_rules import spec_of
from pipeline.config.schema import Config
from pipeline.dataset.examples import example_rows
from pipeline.evaluation.results import numbers_of
from pipeline.model import adapter as adapters
from pipeline.model.adapter_folder import copy_companions
from pipeline.model.base import Base, kind_of
from pipeline.model.base.fingerprint import fingerprint
from pipeline.model.exported import base_with_tokens
from pipeline.prompt.encode import Encoder
from pipeline.prompt.stage import encoder_of
from pipeline.release import verify
from pipeline.run.errors import UserError
from pipeline.run.files import read_json, sha256_file
from pipeline.run.folder import Run
from pipeline.run.next_command import next_command
from pipeline.run.progress import say
from pipeline.run.width import small
from pipeline.store.folder import Store
from pipeline.store.load import write_record
from pipeline.store.untrusted import CONFIG, check_numbers, inspect

FILES = (adapters.WEIGHTS, CONFIG)


def keep(config: Config, run: Run, base: Base, store: Store, name: str, replace: bool) -> None:
    """Copies the adapter of a finished run into the store as `name`.

    Raises:
        UserError: the name is taken or not valid; the run trained every weight, none, or experts; the adapter is
            damaged, empty or does not change its base; the store is in use.
    """
    store.check_free(name, replace)
    source = run.folder("adapter")
    if spec_of(config.adapter).export == "nothing":
        what = f"nothing was trained, there is nothing to keep: adapter.method={config.adapter.method}"
        raise UserError(what, "adapter.method", "choose a method that trains, such as lora")
    if not (source / CONFIG).is_file():
        what = f"the run has no adapter: adapter.method={config.adapter.method} trained the base's own weights"
        raise UserError(what, str(source), f"`{next_command('export')}` makes a checkpoint of it")
    settings = read_json(source / CONFIG)
    if isinstance(settings, dict) and settings.get("target_parameters"):
        # peft names them by regular expressions, which the store refuses, since adapters may come from elsewhere.
        what = "the adapter adapts experts, which cannot be kept in the store yet"
        fix = f"`{next_command('export')}` makes a checkpoint of it; or name adapter.targets outside the experts"
        raise UserError(what, str(source), fix)
    peft = inspect(source)
    check_numbers(source)
    checked = {file: sha256_file(source / file) for file in FILES}
    encoder = encoder_of(config, base.tokenizer)
    divergence = _check_on_base(config, run, base, encoder)
    origin = _origin(config, run, base, encoder)
    rank = peft.get("r") if peft.get("peft_type") == "LORA" else None
    with store.writing(name, replace) as folder:
        for file in FILES:
            shutil.copyfile(source / file, folder / file)
        copy_companions(source, folder)
        record = write_record(folder, {**origin, "method": config.adapter.method, "rank": rank})
        if record["files"] != checked:
            raise UserError(
                "the run's adapter changed while it was checked", str(source), "wait for the run, then again"
            )
    say(f"keep: stored as {store.root / name}; it changes the base by {small(divergence, 2)} nats a token (KL)")


def _check_on_base(config: Config, run: Run, base: Base, encoder: Encoder) -> float:
    """KL divergence between base + adapter and the base on a few rows, in nats a token.

    Raises:
        UserError: the adapter does not fit the base, gives NaN, or changes nothing.
    """
    folder = run.folder("adapter")
    examples = example_rows(run.folder("dataset"), verify.PROBE_ROWS)
    model = base_with_tokens(config, base, encoder)
    base_log_probs = verify.log_probabilities(model, encoder, examples)
    log_probs = verify.log_probabilities(adapters.load(model, folder), encoder, examples)
    if not torch.isfinite(log_probs).all():
        raise UserError("base + adapter give NaN or infinite numbers", str(folder), "train again with a lower train.lr")
    divergence = verify.divergence(log_probs, base_log_probs)
    if divergence <= 0:
        what = "base + adapter equal the base: nothing was learnt"
        raise UserError(what, str(folder), "raise train.lr or train for more steps")
    return divergence


def _origin(config: Config, run: Run, base: Base, encoder: Encoder) -> dict[str, Any]:
    """The record: where the adapter comes from, and what loading it needs."""
    manifest = run.manifest("adapter") or {}
    on_hub = kind_of(config.model) == "hub"
    exported, results = run.manifest("export"), {}
    if exported and exported["key"].get("adapter") == run.result("adapter"):
        measured = read_json(run.folder("export") / "results.json")
        results = {config.name: numbers_of(measured["tuned"])} if measured else {}
    return {
        "run": config.name,
        "trained": manifest.get("written"),
        "versions": manifest.get("versions"),
        "trained_parameters": manifest.get("counts", {}).get("trained_parameters", 0),
        "base": {
            "name": config.model.base if on_hub else base.folder.name if base.folder else "random weights",
            "hash": fingerprint(config.model, base, config.train.seed),
            "commit": base.commit,
            "quantize": config.model.quantize,
        },
        "template": {**dataclasses.asdict(encoder.template), "hash": encoder.template.hash},
        "prompt": config.value("prompt"),
        "tokenizer": encoder.tokenizer.hash,
        "end_id": encoder.end_id,
        "results": results,
    }
