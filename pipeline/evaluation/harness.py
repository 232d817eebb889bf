"""One model through lm-evaluation-harness (extra `eval`), one task at a time."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import datasets
import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from pipeline.evaluation.tasks import FIELD, LOCAL
from pipeline.run.errors import UserError
from pipeline.run.nearest import nearest
from pipeline.run.progress import bar

CPU_BATCH = 8
MOST = 512  # questions at once that are tried first on a GPU; at 64, the harness's limit, a small model idles
FEWSHOT_SEED = 1234  # the harness's own
BOOTSTRAP = 1000  # draws for errors that have no formula (perplexity); the harness's own default takes minutes


class ObservedLM(HFLM):
    """The harness's class for transformers models, with errors for NaN and for answers longer than the context.

    Attributes:
        cut: questions longer than the model's context, which lost their beginning. task: for messages.
    """

    task, cut = "", 0
    progress: Any = None

    def _model_call(self, inps: torch.Tensor, *args: Any, **more: Any) -> torch.Tensor:
        logits = super()._model_call(inps, *args, **more)
        if logits.isnan().any():
            fix = "look at the loss of its training; a bf16 model run in fp16 does this too"
            raise UserError("the model's logits are NaN", f"benchmark {self.task}", fix)
        if self.progress is not None:
            self.progress.update(len(inps))
        return logits

    def _detect_batch_size(self, *args: Any, **more: Any) -> Any:
        shown, self.progress = self.progress, None  # its trial passes answer no question
        try:
            return super()._detect_batch_size(*args, **more)
        finally:
            self.progress = shown

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None) -> Any:
        longest = self.max_length + 1
        self.cut += sum(len(context) + len(rest) > longest for _, context, rest in requests)
        for _, _, rest in requests:
            if len(rest) > self.max_length:
                what = f"an answer of {len(rest)} tokens, and the model sees {self.max_length}"
                raise UserError(what, f"benchmark {self.task}", f"take {self.task} out of {FIELD}")
        passes = {(*context, *rest[:-1]) for _, context, rest in requests}  # the rest comes out of the same pass
        with bar(total=len(passes), what=self.task, unit="pass") as self.progress:
            results = super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)
        self.progress = None
        return results


class Harness:
    """Runs tasks on a loaded model. Tasks come from `folder` (see `tasks.write_local`), or, with None, from the hub.

    Args:
        batch: questions at once; 0 = as many as fit a GPU's memory, 8 on a CPU. as_turns: with a template, examples
            before a question are turns of a conversation, as with the harness's own `--apply_chat_template`; Alpaca's
            templates answer one question, and have them in it.
    """

    def __init__(self, model: Any, tokenizer: Any, folder: Path | None, batch: int, as_turns: bool = False) -> None:
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        os.environ.setdefault("DISABLE_MULTIPROC", "1")  # it would start a process a core for a second of drawing
        datasets.disable_progress_bars()
        self.local, self.as_turns = folder is not None, as_turns
        self.manager = TaskManager(include_path=folder and str(folder), include_defaults=folder is None)
        size: int | str = batch or ("auto" if next(model.parameters()).is_cuda else CPU_BATCH)
        self.model = ObservedLM(pretrained=model, tokenizer=tokenizer, batch_size=size, max_batch_size=MOST)

    def ask(self, task: str, limit: int, num_fewshot: int, template: bool, who: str) -> dict[str, Any]:
        """One named task, which may be a group.

        Args:
            limit: questions of each of its tasks at most, the first ones; 0 = all. template: put each question
                into the tokenizer's chat template.

        Returns:
            results: {task: {metric: value}} for the task and, in a group, its parts. n: {part: questions}. samples:
            {part: {metric: value of each question}}. cut: how many questions lost their beginning.

        Raises:
            UserError: no such task, the hub cannot be reached, the model gives NaN.
        """
        name = task + LOCAL if self.local else task
        if name not in self.manager.all_tasks:
            fix = nearest(task, self.manager.all_tasks, "list them: .venv/bin/lm_eval ls tasks")
            raise UserError(f"lm-evaluation-harness has no task {task!r}", FIELD, fix)
        self.model.task, self.model.cut = f"{who}: {task}", 0
        try:
            loaded = self.manager.load([name])
        except (ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
            fix = "check the network, or give the questions as files (eval.task_files)"
            raise UserError(f"the questions of {task} cannot be fetched: {error}", FIELD, fix) from None
        for leaf_task in loaded["tasks"].values():  # as the harness's `simple_evaluate` sets them
            own = leaf_task.get_config("num_fewshot")
            leaf_task.set_config(key="num_fewshot", value=0 if own == 0 else num_fewshot or own or 0)
            leaf_task.set_fewshot_seed(seed=FEWSHOT_SEED)
        # Not `simple_evaluate`: it asks pip and git for their versions, two seconds a task.
        results = evaluate(
            lm=self.model, task_dict=loaded, limit=limit or None, bootstrap_iters=BOOTSTRAP, log_samples=True,
            apply_chat_template=template, fewshot_as_multiturn=template and self.as_turns,
        )  # fmt: skip
        return {**_results(results), "cut": self.model.cut}


def _results(evaluated: dict[str, Any]) -> dict[str, Any]:
    leaves = sorted(evaluated["samples"])
    results = {**evaluated["results"], **evaluated.get("groups", {})}
    return {
        "results": {task.removesuffix(LOCAL): _numbers(values) for task, values in results.items()},
        "higher": {m: up for leaf in leaves for m, up in evaluated["higher_is_better"][leaf].items()},
        "versions": {leaf.removesuffix(LOCAL): evaluated["versions"].get(leaf) for leaf in leaves},
        "n": {leaf.removesuffix(LOCAL): evaluated["n-samples"][leaf]["effective"] for leaf in leaves},
        "samples": {leaf.removesuffix(LOCAL): _values(evaluated["samples"][leaf]) for leaf in leaves},
    }


def _values(samples: list[dict[str, Any]]) -> dict[str, list[float]]:
    """{metric: value of each question}, for metrics that have one."""
    values: dict[str, list[float]] = {}
    for sample in sorted(samples, key=lambda s: s["doc_id"]):
        for metric in sample["metrics"]:
            if isinstance(value := sample[metric], int | float):
                values.setdefault(metric, []).append(float(value))
    return values


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """`acc,none` and its like, under the metric's name where there is one filter alone."""
    numbers = {key: value for key, value in values.items() if "," in key and isinstance(value, int | float)}
    filters = {key.split(",")[1] for key in numbers}
    return {key.split(",")[0] if len(filters) == 1 else key: float(value) for key, value in numbers.items()}
