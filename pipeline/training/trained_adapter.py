"""The result of training: `adapter/` with the trained weights, what they belong to, and probes of the model."""

from __future__ import annotations

import os
from typing import Any

from pipeline.config.schema import Config
from pipeline.evaluation.probe_model import probe_model, tell
from pipeline.model import adapter as adapters
from pipeline.model import adapter_folder
from pipeline.model.base import Base, kind_of
from pipeline.model.base.fingerprint import fingerprint
from pipeline.model.load import context_length
from pipeline.prompt.encode import Encoder
from pipeline.run.files import write_json
from pipeline.run.folder import Run, StageOutput
from pipeline.run.progress import say
from pipeline.training import metrics


def finish(
    config: Config, run: Run, base: Base, model: Any, encoder: Encoder, key: dict[str, Any], counts: dict[str, Any]
) -> None:
    """Probes the trained model, draws the loss, and writes `adapter/`.

    Args:
        counts: of the manifest; first and last loss are added.
    """
    lines = metrics.read(run.root / "metrics.jsonl")
    losses = [m["loss"] for m in lines if "loss" in m]
    counts |= {"first_loss": losses[0], "last_loss": losses[-1]} if losses else {}
    probes = probe_model(model, config, run, encoder, counts)
    metrics.plot(run.root / "loss.png", lines, config.name)
    with run.writing("adapter", key) as output:
        _save(config, base, model, encoder, output)
        write_json(output.folder / "probes.json", probes)
        output.counts = counts
    summary = f"{counts['steps']:,} steps in {counts['train_seconds']:.0f} s, peak memory {counts['peak_gib']:.1f} GiB"
    say(f"train: done: {summary}; the adapter is in {run.folder('adapter')}")
    tell(probes)


def write_untrained(config: Config, run: Run, base: Base, encoder: Encoder, key: dict[str, Any]) -> None:
    """`adapter/` of `adapter.method=none`, without weights."""
    if int(os.environ.get("RANK", "0")) == 0:
        with run.writing("adapter", key) as output:
            _save(config, base, None, encoder, output)
            output.counts = {"steps": 0, "trained_parameters": 0}
        say(f"train: adapter.method=none trains nothing; its record is in {run.folder('adapter')}")


def _save(config: Config, base: Base, model: Any, encoder: Encoder, output: StageOutput) -> None:
    method = adapters.method_of(config.adapter)
    method.save(model, output.folder, adapter_folder.base_reference(config.model, base))
    length = context_length(getattr(model, "config", None))
    adapter_folder.complete(output.folder, config, base, encoder, length)
    on_hub = kind_of(config.model) == "hub"
    record = {
        "method": method.name,
        "adapter": {key: config.value(f"adapter.{key}") for key in method.spec.keys},
        "template": {"id": encoder.template.id, "hash": encoder.template.hash},
        "tokenizer": encoder.tokenizer.hash,
        "base": config.model.base if on_hub else base.folder.name if base.folder else "random weights",
        "base_hash": fingerprint(config.model, base, config.train.seed),
        "commit": base.commit,
        "end_id": encoder.end_id,
    }
    write_json(output.folder / "suri.json", record)
