"""Puts a run's adapter into the store, with a record, after loading it onto its base."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch

from pipeline.config.method_rules import spec_of
from pipeline.config.schema import Config
from pipeline.dataset.examples import example_rows
from pipeline.evaluation.results import numbers_of
from pipeline.model import adapter as adapters
from pipeline.model.adapter_folder import copy_companions
from pipeline.model.base import Base
from pipeline.model.run_base import RunBase
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
    run_base = RunBase.of(config, base)
    divergence = _check_on_base(run_base, source, run.folder("dataset"))
    origin = _origin(config.name, run, run_base)
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


def _check_on_base(base: RunBase, folder: Path, dataset: Path) -> float:
    """KL divergence between base + adapter and the base on a few rows, in nats a token.

    Args:
        folder: of the adapter. dataset: folder of the data stage.

    Raises:
        UserError: the adapter does not fit the base, gives NaN, or changes nothing.
    """
    encoder, examples = base.encoder, example_rows(dataset, verify.PROBE_ROWS)
    model = base.load()
    base_log_probs = verify.log_probabilities(model, encoder, examples)
    log_probs = verify.log_probabilities(adapters.load(model, folder), encoder, examples)
    if not torch.isfinite(log_probs).all():
        raise UserError("base + adapter give NaN or infinite numbers", str(folder), "train again with a lower train.lr")
    divergence = verify.divergence(log_probs, base_log_probs)
    if divergence <= 0:
        what = "base + adapter equal the base: nothing was learnt"
        raise UserError(what, str(folder), "raise train.lr or train for more steps")
    return divergence


def _origin(name: str, run: Run, base: RunBase) -> dict[str, Any]:
    """The record: where the adapter comes from, and what loading it needs. name: of the run."""
    manifest, encoder = run.manifest("adapter") or {}, base.encoder
    exported, results = run.manifest("export"), {}
    if exported and exported["key"].get("adapter") == run.result("adapter"):
        measured = read_json(run.folder("export") / "results.json")
        results = {name: numbers_of(measured["tuned"])} if measured else {}
    return {
        "run": name,
        "trained": manifest.get("written"),
        "versions": manifest.get("versions"),
        "trained_parameters": manifest.get("counts", {}).get("trained_parameters", 0),
        "base": {
            "name": base.name,
            "hash": base.fingerprint(),
            "commit": base.files.commit,
            "quantize": base.model.quantize,
        },
        "template": {**dataclasses.asdict(encoder.template), "hash": encoder.template.hash},
        "prompt": encoder.prompt_config.model_dump(mode="json"),
        "tokenizer": encoder.tokenizer.hash,
        "end_id": encoder.end_id,
        "results": results,
    }
