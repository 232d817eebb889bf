"""The result of training: `adapter/` with the trained weights, what they belong to, and probes of the model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.evaluation.probe_causes import Facts
from pipeline.evaluation.probe_model import probe_model, tell
from pipeline.model import adapter as adapters
from pipeline.model import adapter_folder
from pipeline.model.load import context_length
from pipeline.model.run_base import RunBase
from pipeline.run.files import write_json
from pipeline.run.folder import Run
from pipeline.run.progress import say
from pipeline.training import metrics


def finish(
    config: Config, run: Run, base: RunBase, model: Any, key: dict[str, Any], counts: dict[str, Any],
    use_best: Callable[[], None] | None = None,
) -> None:  # fmt: skip
    """Probes the trained model, draws the loss, and writes `adapter/`.

    Args:
        counts: of the manifest; first and last loss are added. use_best: puts the weights of the lowest held-out loss
            into the model; those of the last step are then written to `adapter/last/`.
    """
    lines = metrics.read(run.root / "metrics.jsonl")
    losses = [m["loss"] for m in lines if "loss" in m]
    counts |= {"first_loss": losses[0], "last_loss": losses[-1]} if losses else {}
    longest = context_length(model.config, config.adapter)
    facts = Facts.of(config.prompt, config.train, run, counts)
    metrics.plot(run.root / "loss.png", lines, config.name)
    with run.writing("adapter", key) as output:
        if use_best:
            (output.folder / "last").mkdir()
            _save(config.name, base, model, output.folder / "last")
            use_best()
        probes = probe_model(model, base.encoder, run.folder("dataset"), config.eval, longest, facts)
        _save(config.name, base, model, output.folder)
        write_json(output.folder / "probes.json", probes)
        output.counts = counts
    summary = f"{counts['steps']:,} steps in {counts['train_seconds']:.0f} s, peak memory {counts['peak_gib']:.1f} GiB"
    say(f"train: done: {summary}; the adapter is in {run.folder('adapter')}")
    tell(probes)


def take_part(
    config: Config, run: Run, base: RunBase, model: Any, use_best: Callable[[], None] | None = None
) -> None:  # fmt: skip
    """What `finish` needs of the other ranks, where they have parts of the weights: the same passes, in its order.

    Args, raises: as `finish`.
    """
    method, facts = adapters.method_of(base.adapter), Facts.of(config.prompt, config.train, run, {})
    if use_best:
        method.give_parts(model)
        use_best()
    longest = context_length(model.config, config.adapter)
    probe_model(model, base.encoder, run.folder("dataset"), config.eval, longest, facts)
    method.give_parts(model)


def write_untrained(name: str, run: Run, base: RunBase, key: dict[str, Any]) -> None:
    """`adapter/` of `adapter.method=none`, without weights. name: of the run."""
    if int(os.environ.get("RANK", "0")) == 0:
        with run.writing("adapter", key) as output:
            _save(name, base, None, output.folder)
            output.counts = {"steps": 0, "trained_parameters": 0}
        say(f"train: adapter.method=none trains nothing; its record is in {run.folder('adapter')}")


def _save(name: str, base: RunBase, model: Any, folder: Path) -> None:
    """Writes weights, tokenizer, card and record. name: of the run."""
    method, files, encoder = adapters.method_of(base.adapter), base.files, base.encoder
    method.save(model, folder, adapter_folder.base_reference(base.model, files))
    adapter_folder.complete(folder, name, base, context_length(getattr(model, "config", None)))
    settings = base.adapter.model_dump(mode="json")
    record = {
        "method": method.name,
        "adapter": {key: settings[key] for key in method.spec.keys},
        "template": {"id": encoder.template.id, "hash": encoder.template.hash},
        "tokenizer": encoder.tokenizer.hash,
        "base": base.name,
        "base_hash": base.fingerprint(),
        "commit": files.commit,
        **({"rope_scaling": base.model.rope_scaling} if base.model.rope_scaling else {}),
        "end_id": encoder.end_id,
    }
    write_json(folder / "suri.json", record)
