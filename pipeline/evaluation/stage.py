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
from pipeline.config.schema import Config, Eval
from pipeline.evaluation.held_out_rows import HeldOutRows, held_out_rows
from pipeline.evaluation.measure import MeasuredModel, base_model, tuned_model
from pipeline.evaluation.scores import rouge_l
from pipeline.evaluation.shots import Shots, shots_from
from pipeline.evaluation.table import chart, markdown, printed, rows_of
from pipeline.evaluation.tasks import files_of, write_local
from pipeline.model import hf_tokenizer
from pipeline.model.base import Base
from pipeline.model.exported import export_dtype
from pipeline.model.run_base import RunBase
from pipeline.pages.drawing import WIDE
from pipeline.run.errors import UserError
from pipeline.run.files import read_json, write_json, write_text
from pipeline.run.folder import Run
from pipeline.run.next_command import next_command
from pipeline.run.progress import say
from pipeline.run.versions import versions


class Evaluation:
    """The measurements and their models. `who`: base, shots (the base with examples before each question), tuned.

    Args:
        dtype: of merged weights. hashes: sha256 of the benchmarks' files by path.
    """

    def __init__(self, settings: Eval, run: Run, base: RunBase, dtype: str, hashes: Mapping[str, str]) -> None:
        self.settings, self.run, self.base, self.encoder = settings, run, base, base.encoder
        self.splits = held_out_rows(run.folder("dataset"), run.folder("tokens"), settings.rows)
        local = bool(settings.task_files and settings.tasks)
        self.folder = run.folder("benchmarks") / "tasks" if local else None
        self.untrained = spec_of(base.adapter).export == "nothing"
        self.files, self.hashes = files_of(settings), hashes
        self.models = {
            "base": base_model(run.folder("measurements"), base),
            "tuned": tuned_model(run, base, dtype),
        }
        self.harness: tuple[Any, Any] = (None, None)

    def units(self) -> list[tuple[str, str]]:
        """(who, what) in the order of measurement; what: `held-out` or a task. With a method without training the tuned
        model is the base with examples, which benchmarks do not use."""
        baseline = ["shots"] if self.settings.shots and not self.untrained else []
        held_out = [(who, "held-out") for who in ("base", *baseline, "tuned")] if self.splits else []
        models = ("base",) if self.untrained else ("base", "tuned")
        units = held_out + [(who, task) for who in models for task in self.settings.tasks]
        return sorted(units, key=lambda unit: unit[0] == "tuned")

    def measure(self, who: str, what: str) -> dict[str, Any]:
        """Measures one unit, or takes it from the cache.

        Raises:
            UserError: as `Harness.ask`.
        """
        measured = self.models["tuned" if who == "tuned" else "base"]
        if what == "held-out":
            return held_out(measured, self.splits, self.settings.max_new_tokens, self._shots(who))
        return measured.result(f"task {what}", self._task_settings(what), lambda model: self._ask(model, what, who))

    def _task_settings(self, task: str) -> dict[str, Any]:
        """All that a benchmark's result depends on besides the model."""
        settings = self.settings
        template = self.encoder.template.hash if settings.prompting == "template" else ""
        return {
            "limit": settings.limit, "num_fewshot": settings.num_fewshot, "template": template,
            "files": [self.hashes[str(path)] for _, path in self.files.get(task, [])], "lm_eval": harness_version(),
        }  # fmt: skip

    def _ask(self, model: Any, task: str, who: str) -> dict[str, Any]:
        settings = self.settings
        if self.harness[0] is not model:
            from pipeline.evaluation.harness import Harness

            tokenizer = hf_tokenizer.load(self.run.folder("export"))
            as_turns = self.base.encoder.is_chat
            self.harness = model, Harness(model, tokenizer, self.folder, settings.batch_size, as_turns)
        return self.harness[1].ask(task, settings.limit, settings.num_fewshot, settings.prompting == "template", who)

    def _shots(self, who: str) -> Shots | None:
        """Examples before every question, where `who` gets them."""
        base, settings = self.base, self.settings
        count = settings.shots if who == "shots" else 0
        if self.untrained and who == "tuned":
            count = base.adapter.shots
        if not count:
            return None
        room, dataset = settings.max_new_tokens, self.run.folder("dataset")
        return shots_from(dataset, self.encoder, base.seed, base.context_length(), room, count)

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
    hashes = {path: entry["sha256"] for path, entry in stage_key["inputs"].items()}
    dtype = export_dtype(config.export, config.model)
    evaluation = Evaluation(config.eval, run, RunBase.of(config, base), dtype, hashes)
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
    template = evaluation.encoder.template
    with run.writing("eval", stage_key) as output:
        record = {
            "models": {
                "base": {"name": config.model.base or "geometry", "quantize": config.model.quantize},
                "tuned": {"run": config.name, "export": run.result("export"), "method": config.adapter.method},
                "template": {"id": template.id, "hash": template.hash},
            },
            "rows": rows,
            "settings": {k: config.value("eval")[k] for k in ("limit", "num_fewshot", "prompting", "shots", "rows")},
            "tasks": {f"{who} {what}": {k: v for k, v in result.items() if k != "samples"}
                      for (who, what), result in measured.items() if what != "held-out"},
            "command": f"make eval CONFIG=...  (name: {config.name})",
            "versions": {**versions(), **({"lm_eval": harness_version()} if config.eval.tasks else {})},
        }  # fmt: skip
        write_json(output.folder / "eval.json", record)
        text = markdown(config.name, config.eval, record, evaluation.folder)
        write_text(output.folder / "eval.md", shortener(run.root, config)(text))
        from pipeline.pages import png  # matplotlib takes a second

        png.write(chart(config.name, config.eval.shots, rows, WIDE), output.folder / "eval.png")
        output.counts = {"rows": len(rows)}
    say(printed(config.eval.shots, rows))
    say(f"eval: {run.folder('eval') / 'eval.md'}, eval.json, eval.png")


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
