"""The evaluation stage: base, base with examples in front, and tuned model, in one table with standard errors.

runs/NAME/benchmarks/   rows and task definitions as the harness reads them; each finished measurement
runs/NAME/eval/         eval.json, eval.md, eval.png
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch
from transformers import AutoTokenizer

from pipeline.config import Config
from pipeline.dataset.stage import load as load_examples
from pipeline.errors import UserError
from pipeline.evaluation.answers import answer
from pipeline.evaluation.heldout import row_sums, tokens_at_once
from pipeline.evaluation.measure import PARTS
from pipeline.evaluation.parts import Parts
from pipeline.evaluation.rouge import rouge_l
from pipeline.evaluation.shots import Shots, shots_of, with_shots
from pipeline.evaluation.table import markdown, picture, printed, rows_of
from pipeline.evaluation.tasks import files_of, write_local
from pipeline.files import read_json, write_json, write_text
from pipeline.method_rules import spec_of
from pipeline.model import base as bases
from pipeline.model.base import Base
from pipeline.model.exported import base_with_tokens, export_dtype, exported_model, free_memory
from pipeline.progress import say
from pipeline.prompt.encode import Encoder
from pipeline.prompt.stage import encoder_of
from pipeline.prompt.tokens import Tokens
from pipeline.run import Run, versions


class Evaluation:
    """What is measured on which model. `who`: base, shots (the base with examples in front), tuned."""

    def __init__(self, config: Config, run: Run, base: Base) -> None:
        self.config, self.run, self.base = config, run, base
        self.encoder = encoder_of(config, base.tokenizer)
        self.parts = Parts(run.folder("benchmarks"))
        local = bool(config.eval.task_files and config.eval.tasks)
        self.folder = run.folder("benchmarks") / "tasks" if local else None
        self.untrained = spec_of(config.adapter).export == "nothing"
        self.files = files_of(config)
        self.harness: Any = None

    def units(self) -> list[tuple[str, str]]:
        """(who, what) in the order of work: `held-out` or a task. The tuned model of a method without training is the
        base with examples in front, which benchmarks know nothing of."""
        baseline = ["shots"] if self.config.eval.shots and not self.untrained else []
        held_out = [(who, "held-out") for who in ("base", *baseline, "tuned")] if self._has_rows() else []
        models = ("base",) if self.untrained else ("base", "tuned")
        found = held_out + [(who, task) for who in models for task in self.config.eval.tasks]
        return sorted(found, key=lambda unit: unit[0] == "tuned")

    def key(self, who: str, what: str, hashes: dict[str, str]) -> dict[str, Any]:
        """All that a measurement depends on. hashes: of local files."""
        config, wanted = self.config, self.config.eval
        model: dict[str, Any] = {"export": self.run.result("export")} if who == "tuned" else {
            "model": config.value("model"), "base": bases.identity(config.model, self.run, "adapter"),
        }  # fmt: skip
        if what == "held-out":
            asked = {"rows": wanted.rows, "most": wanted.max_new_tokens, "tokens": self.run.result("tokens"),
                     "shots": wanted.shots if who == "shots" else 0}  # fmt: skip
        else:
            template = self.encoder.template.hash if wanted.prompting == "template" else ""
            asked = {"limit": wanted.limit, "num_fewshot": wanted.num_fewshot, "template": template,
                     "files": [hashes[str(path)] for _, path in self.files.get(what, [])],
                     "lm_eval": harness_version()}  # fmt: skip
        return {"version": 2, "what": what, "tokenizer": self.encoder.tokenizer.hash, **model, **asked}

    def measure(self, model: Any, who: str, what: str) -> dict[str, Any]:
        """One unit on its loaded model.

        Raises:
            UserError: as `Harness.ask`.
        """
        config, wanted = self.config, self.config.eval
        if what != "held-out":
            if self.harness is None:
                from pipeline.evaluation.harness import Harness

                tokenizer = AutoTokenizer.from_pretrained(self.run.folder("export"), local_files_only=True)
                self.harness = Harness(model, tokenizer, self.folder, wanted.batch_size)
            template = wanted.prompting == "template"
            return self.harness.ask(what, wanted.limit, wanted.num_fewshot, template, who)
        count = wanted.shots if who == "shots" else config.adapter.shots if self.untrained and who == "tuned" else 0
        shots = None
        if count:
            limit = getattr(model.config, "max_position_embeddings", None)
            shots = shots_of(config, self.run, self.encoder, limit, wanted.max_new_tokens, count)
        return held_out(model, config, self.run, self.encoder, who, shots)

    def load(self, who: str) -> Any:
        self.harness = None
        free_memory()
        if who == "tuned":
            return exported_model(self.config, self.run, export_dtype(self.config))
        return base_with_tokens(self.config, self.base, self.encoder)

    def _has_rows(self) -> bool:
        return any(len(Tokens(self.run.folder("tokens") / f"{part}.arrow")) for part in PARTS)


def harness_version() -> str:
    """Of lm-evaluation-harness.

    Raises:
        UserError: it is not installed.
    """
    try:
        return metadata.version("lm_eval")
    except metadata.PackageNotFoundError:
        fix = "run it as `make eval`, which installs it, or set eval.tasks=[] to measure held-out rows alone"
        raise UserError("lm-evaluation-harness is not installed", "eval.tasks", fix) from None


def evaluate(config: Config, run: Run, base: Base, stage_key: dict[str, Any]) -> None:
    """Measures what was not measured yet, and writes the table.

    Raises:
        UserError: nothing to measure; a benchmark's file or row is unfit (named); a model gives NaN.
    """
    torch.manual_seed(0)
    work = Evaluation(config, run, base)
    units = work.units()
    if not units:
        fix = "keep rows out of training (data.val=64), or name benchmarks (eval.tasks)"
        raise UserError("nothing to evaluate: no held-out rows and no benchmarks", "eval", fix)
    if config.eval.tasks:
        harness_version()
    if work.folder:
        write_local(work.files, work.folder)  # checks every row before a model is loaded
    hashes = {path: entry["sha256"] for path, entry in stage_key["inputs"].items()}
    keys = {(who, what): work.key(who, what, hashes) for who, what in units}
    loaded: tuple[str, Any] = ("", None)
    for n, (who, what) in enumerate(units, 1):
        name = f"{who}-{what}"
        if work.parts.has(name, keys[who, what]):
            say(f"eval: {n} of {len(units)}: {who}, {what}: measured before")
            continue
        say(f"eval: {n} of {len(units)}: {who}, {what}")
        side = "tuned" if who == "tuned" else "base"
        if loaded[0] != side:
            loaded = ("", None)
            loaded = (side, work.load(side))
        work.parts.keep(name, keys[who, what], _asking(work, loaded[1], who, what))
    found = {(who, what): work.parts.found(f"{who}-{what}") for who, what in units}
    rows = rows_of(found, read_json(run.folder("export") / "results.json") or {})
    with run.writing("eval", stage_key) as output:
        record = {
            "models": _models(config, run, work.encoder),
            "rows": rows,
            "settings": {k: config.value("eval")[k] for k in ("limit", "num_fewshot", "prompting", "shots", "rows")},
            "tasks": {f"{who} {what}": {k: v for k, v in part.items() if k != "samples"}
                      for (who, what), part in found.items() if what != "held-out"},
            "command": f"make eval CONFIG=...  (name: {config.name})",
            "versions": {**versions(), **({"lm_eval": harness_version()} if config.eval.tasks else {})},
        }  # fmt: skip
        write_json(output.folder / "eval.json", record)
        write_text(output.folder / "eval.md", markdown(config, record, work.folder))
        picture(output.folder / "eval.png", config, rows)
        output.counts = {"rows": len(rows)}
    print(printed(config, rows))
    say(f"eval: {run.folder('eval') / 'eval.md'}, eval.json, eval.png")


def _asking(work: Evaluation, model: Any, who: str, what: str) -> Callable[[], dict[str, Any]]:
    return lambda: work.measure(model, who, what)


def _models(config: Config, run: Run, encoder: Encoder) -> dict[str, Any]:
    return {
        "base": {"name": config.model.base or "geometry", "quantize": config.model.quantize},
        "tuned": {"run": config.name, "export": run.result("export"), "method": config.adapter.method},
        "template": {"id": encoder.template.id, "hash": encoder.template.hash},
    }


def held_out(
    model: Any, config: Config, run: Run, encoder: Encoder, who: str, shots: Shots | None = None
) -> dict[str, Any]:
    """Loss and answers of the run's held-out rows.

    Returns:
        For `val` and `holdout`, where they have rows: sums, counts (nats and tokens of each row), rouge_l, stopped,
        exact (of each answer; None where a row has more than one right answer), cut (answers at the limit).
    """
    found = {}
    for part in PARTS:
        tokens = Tokens(run.folder("tokens") / f"{part}.arrow")
        limit = config.eval.rows if part == "val" else (config.eval.rows + 1) // 2
        rows = range(min(len(tokens), limit))
        if not rows:
            continue
        examples = load_examples(run, part)
        shown = with_shots(shots, tokens, rows, examples)
        sums, counts = row_sums(model, shown, rows, tokens_at_once(), f"{who}: loss, {part}")
        said = answer(model, encoder, examples[:limit], config.eval.max_new_tokens, f"{who}: answers, {part}", shots)
        pairs = list(zip(examples[:limit], said, strict=True))
        found[part] = {
            "sums": sums,
            "counts": counts,
            "rouge_l": [rouge_l(a.expected, a.said, e.language) for e, a in pairs],
            "stopped": [float(a.stopped) for a in said],
            "exact": [float(a.exact) if e.exact else None for e, a in pairs],
            "said": [a.said for a in said],
        }
    return found
