"""The evaluation stage: base, base with examples (shots) and tuned model in one table with standard errors.

runs/NAME/benchmarks/     rows and task definitions in the harness's form
runs/NAME/measurements/   cached results
runs/NAME/eval/           eval.json, eval.md, eval.png
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

from pipeline.config.method_rules import spec_of
from pipeline.config.portable_paths import shortener
from pipeline.config.schema import Config
from pipeline.evaluation.held_out_rows import HeldOutRows, held_out_rows
from pipeline.evaluation.measure import MeasuredModel, base_model, tuned_model
from pipeline.evaluation.scores import rouge_l
from pipeline.evaluation.shots import Shots, shots_from
from pipeline.evaluation.table import chart, markdown, printed, rows_of
from pipeline.evaluation.tasks import files_of, write_local
from pipeline.model import hf_tokenizer
from pipeline.model.base import Base
from pipeline.model.load import base_shape, context_length
from pipeline.pages.drawing import WIDE
from pipeline.prompt.encode import Encoder
from pipeline.prompt.stage import encoder_of
from pipeline.run.errors import UserError
from pipeline.run.files import read_json, write_json, write_text
from pipeline.run.folder import Run, versions
from pipeline.run.next_command import next_command
from pipeline.run.progress import say


class Evaluation:
    """The measurements and their models. `who`: base, shots (the base with examples before each question), tuned."""

    def __init__(self, config: Config, run: Run, base: Base, stage_key: dict[str, Any]) -> None:
        self.config, self.run, self.base = config, run, base
        self.encoder = encoder_of(config, base.tokenizer)
        self.splits = held_out_rows(run.folder("dataset"), run.folder("tokens"), config.eval.rows)
        local = bool(config.eval.task_files and config.eval.tasks)
        self.folder = run.folder("benchmarks") / "tasks" if local else None
        self.untrained = spec_of(config.adapter).export == "nothing"
        self.files = files_of(config)
        self.hashes = {path: entry["sha256"] for path, entry in stage_key["inputs"].items()}
        self.models = {
            "base": base_model(config, run, base, self.encoder),
            "tuned": tuned_model(config, run, self.encoder),
        }
        self.harness: tuple[Any, Any] = (None, None)

    def units(self) -> list[tuple[str, str]]:
        """(who, what) in the order of measurement; what: `held-out` or a task. With a method without training the tuned
        model is the base with examples, which benchmarks do not use."""
        baseline = ["shots"] if self.config.eval.shots and not self.untrained else []
        held_out = [(who, "held-out") for who in ("base", *baseline, "tuned")] if self.splits else []
        models = ("base",) if self.untrained else ("base", "tuned")
        units = held_out + [(who, task) for who in models for task in self.config.eval.tasks]
        return sorted(units, key=lambda unit: unit[0] == "tuned")

    def measure(self, who: str, what: str) -> dict[str, Any]:
        """Measures one unit, or takes it from the cache.

        Raises:
            UserError: as `Harness.ask`.
        """
        measured = self.models["tuned" if who == "tuned" else "base"]
        if what == "held-out":
            return held_out(measured, self.splits, self.config.eval.max_new_tokens, self._shots(who))
        return measured.result(f"task {what}", self._task_settings(what), lambda model: self._ask(model, what, who))

    def _task_settings(self, task: str) -> dict[str, Any]:
        """All that a benchmark's result depends on besides the model."""
        wanted = self.config.eval
        template = self.encoder.template.hash if wanted.prompting == "template" else ""
        return {
            "limit": wanted.limit, "num_fewshot": wanted.num_fewshot, "template": template,
            "files": [self.hashes[str(path)] for _, path in self.files.get(task, [])], "lm_eval": harness_version(),
        }  # fmt: skip

    def _ask(self, model: Any, task: str, who: str) -> dict[str, Any]:
        wanted = self.config.eval
        if self.harness[0] is not model:
            from pipeline.evaluation.harness import Harness

            tokenizer = hf_tokenizer.load(self.run.folder("export"))
            self.harness = model, Harness(model, tokenizer, self.folder, wanted.batch_size)
        return self.harness[1].ask(task, wanted.limit, wanted.num_fewshot, wanted.prompting == "template", who)

    def _shots(self, who: str) -> Shots | None:
        """Examples before every question, where `who` gets them."""
        config = self.config
        count = config.eval.shots if who == "shots" else 0
        if self.untrained and who == "tuned":
            count = config.adapter.shots
        if not count:
            return None
        context = context_length(base_shape(config.model, self.base), config.adapter)
        room = config.eval.max_new_tokens
        return shots_from(self.run.folder("dataset"), self.encoder, config.train.seed, context, room, count)

    def release(self, who: str) -> None:
        """Frees a model's memory before the next one is loaded."""
        self.harness = None, None
        self.models[who].release()


def harness_version() -> str:
    """Version of lm-evaluation-harness.

    Raises:
        UserError: it is not installed.
    """
    try:
        return metadata.version("lm_eval")
    except metadata.PackageNotFoundError:
        fix = f"`{next_command('eval')}` installs it; or set eval.tasks=[] to measure held-out rows alone"
        raise UserError("lm-evaluation-harness is not installed", "eval.tasks", fix) from None


def evaluate(config: Config, run: Run, base: Base, stage_key: dict[str, Any]) -> None:
    """Measures what is not cached, and writes the table.

    Raises:
        UserError: nothing to measure; a benchmark's file or row is unfit (named); a model gives NaN.
    """
    evaluation = Evaluation(config, run, base, stage_key)
    units = evaluation.units()
    if not units:
        fix = "keep rows out of training (data.val=64), or name benchmarks (eval.tasks)"
        raise UserError("nothing to evaluate: no held-out rows and no benchmarks", "eval", fix)
    if config.eval.tasks:
        harness_version()
    if evaluation.folder:
        write_local(evaluation.files, evaluation.folder)  # checks every row before a model is loaded
    measured = {}
    for n, (who, what) in enumerate(units, 1):
        if who == "tuned":
            evaluation.release("base")
        say(f"eval: {n} of {len(units)}: {who}, {what}")
        measured[who, what] = evaluation.measure(who, what)
    evaluation.release("tuned")
    rows = rows_of(measured, read_json(run.folder("export") / "results.json") or {})
    with run.writing("eval", stage_key) as output:
        record = {
            "models": _models(config, run, evaluation.encoder),
            "rows": rows,
            "settings": {k: config.value("eval")[k] for k in ("limit", "num_fewshot", "prompting", "shots", "rows")},
            "tasks": {f"{who} {what}": {k: v for k, v in result.items() if k != "samples"}
                      for (who, what), result in measured.items() if what != "held-out"},
            "command": f"make eval CONFIG=...  (name: {config.name})",
            "versions": {**versions(), **({"lm_eval": harness_version()} if config.eval.tasks else {})},
        }  # fmt: skip
        write_json(output.folder / "eval.json", record)
        text = markdown(config, record, evaluation.folder)
        write_text(output.folder / "eval.md", shortener(run.root, config)(text))
        from pipeline.pages import png  # matplotlib takes a second

        png.write(chart(config, rows, WIDE), output.folder / "eval.png")
        output.counts = {"rows": len(rows)}
    say(printed(config, rows))
    say(f"eval: {run.folder('eval') / 'eval.md'}, eval.json, eval.png")


def _models(config: Config, run: Run, encoder: Encoder) -> dict[str, Any]:
    return {
        "base": {"name": config.model.base or "geometry", "quantize": config.model.quantize},
        "tuned": {"run": config.name, "export": run.result("export"), "method": config.adapter.method},
        "template": {"id": encoder.template.id, "hash": encoder.template.hash},
    }


def held_out(
    measured: MeasuredModel, splits: Mapping[str, HeldOutRows], max_new_tokens: int, shots: Shots | None
) -> dict[str, Any]:
    """Losses and answers of the held-out rows, by split.

    Returns:
        sums, counts (nats and tokens of each row), rouge_l, stopped, exact (of each answer; None where a row has more
        than one right answer), said (the answers).
    """
    results = {}
    for split, rows in splits.items():
        tokens, chosen = rows.encoded(shots)
        sums, counts = measured.losses(tokens, chosen, f"loss, {split}")
        answers = measured.answers(rows.examples, max_new_tokens, f"answers, {split}", shots)
        pairs = list(zip(rows.examples, answers, strict=True))
        results[split] = {
            "sums": sums,
            "counts": counts,
            "rouge_l": [rouge_l(a.expected, a.text, e.language) for e, a in pairs],
            "stopped": [float(a.stopped) for a in answers],
            "exact": [float(a.exact) if e.exact else None for e, a in pairs],
            "said": [a.text for a in answers],
        }
    return results
