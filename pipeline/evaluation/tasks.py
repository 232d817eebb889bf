"""The benchmarks, and lm-evaluation-harness's definitions of them with local files as data.

    arc_easy_local.yaml     include: .../lm_eval/tasks/arc/arc_easy.yaml
                            dataset_path: json, data_files: {test: .../arc_easy.jsonl}

A local task differs from the hub's only in the source of its rows; `lm_eval run --include_path` of the folder gives the
same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.schema import Config, Eval
from pipeline.evaluation.task_rows import KOBEST, read
from pipeline.run.errors import UserError
from pipeline.run.files import write_json_lines, write_text
from pipeline.run.folder import Run, input_hashes
from pipeline.run.nearest import nearest

LOCAL = "_local"  # suffix of a task's name in files and in the harness, left out in tables
FIELD = "eval.tasks"


@dataclass(frozen=True)
class TaskFiles:
    """A task's files in a folder of benchmark files, and its definition in the harness.

    split: the harness's name of the rows that it measures on.
    """

    pattern: str
    definition: str
    split: str = "test"


SINGLE = {
    "arc_easy": TaskFiles("arc_easy*", "arc/arc_easy.yaml"),
    "arc_challenge": TaskFiles("arc_challenge*", "arc/arc_challenge.yaml"),
    "hellaswag": TaskFiles("hellaswag*", "hellaswag/hellaswag.yaml", "validation"),
    "truthfulqa_mc1": TaskFiles("[Tt]ruthful[Qq][Aa]*", "truthfulqa/truthfulqa_mc1.yaml", "validation"),
    "truthfulqa_mc2": TaskFiles("[Tt]ruthful[Qq][Aa]*", "truthfulqa/truthfulqa_mc2.yaml", "validation"),
    "lambada_openai": TaskFiles("lambada_openai*", "lambada/lambada_openai.yaml"),
    **{f"kobest_{n}": TaskFiles(f"kobest_{n}*", f"kobest/kobest_{n}.yaml") for n in KOBEST},
}
MMLU = "mmlu"  # a folder with SUBJECT_test.csv
GROUPS = (MMLU, "kobest")


def key(config: Config, run: Run) -> dict[str, Any]:
    """All that an evaluation depends on.

    Raises:
        UserError: as `local_files`.
    """
    wanted = config.value("eval")
    names = ("rows", "max_new_tokens", "tasks", "limit", "num_fewshot", "prompting", "shots")
    files = sorted({path for leaves in files_of(config.eval).values() for _, path in leaves})
    return {
        "version": 2,
        "eval": {name: wanted[name] for name in names},
        "inputs": input_hashes(files),
        "tokens": run.result("tokens"),
        "export": run.result("export"),
    }


def files_of(settings: Eval) -> dict[str, list[tuple[str, Path]]]:
    """`local_files` of the config's `eval`; nothing where its questions come from the hub.

    Raises:
        UserError: as `local_files`.
    """
    return local_files(settings.tasks, Path(settings.task_files)) if settings.task_files else {}


def local_files(tasks: Sequence[str], folder: Path) -> dict[str, list[tuple[str, Path]]]:
    """The files of each named task: (leaf task, path), sorted.

    Raises:
        UserError: the folder, a task's file or the task itself is missing.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}", "eval.task_files", "name a folder with benchmark files")
    files = {}
    for task in tasks:
        leaves = _leaves(task, folder)
        if not leaves:
            fix = f"put it there, take {task} out of {FIELD}, or leave eval.task_files empty to read the hub"
            wanted = f"{MMLU}/*_test.csv" if task == MMLU else f"{task}*"
            raise UserError(f"no file for the benchmark {task} ({wanted})", str(folder), fix)
        files[task] = leaves
    return files


def _leaves(task: str, folder: Path) -> list[tuple[str, Path]]:
    if task == MMLU:
        paths = sorted((folder / MMLU).glob("*_test.csv"))
        return [(f"mmlu_{p.name.removesuffix('_test.csv')}", p) for p in paths]
    if task in GROUPS:
        return [leaf for name in KOBEST for leaf in _leaves(f"kobest_{name}", folder)]
    if task not in SINGLE:
        fix = nearest(task, [*SINGLE, *GROUPS], "one of " + ", ".join([*SINGLE, *GROUPS]))
        raise UserError(f"no benchmark {task!r} can be read from files", FIELD, fix)
    paths = [p for p in sorted(folder.glob(SINGLE[task].pattern)) if p.is_file()]
    return [(task, paths[0])] if paths else []


def write_local(files: dict[str, list[tuple[str, Path]]], folder: Path) -> dict[str, int]:
    """Checked rows and definitions of local tasks, as the harness reads them, into `folder`.

    Returns:
        How many questions each named task has.

    Raises:
        UserError: a row cannot be asked (named).
    """
    import lm_eval

    definitions = Path(lm_eval.__file__).parent / "tasks"
    counts = {}
    for task, leaves in files.items():
        counts[task] = 0
        for leaf, path in leaves:
            rows = read(leaf, path)
            counts[task] += len(rows)
            data = folder / "rows" / f"{leaf}.jsonl"
            data.parent.mkdir(parents=True, exist_ok=True)
            write_json_lines(data, rows)
            _write(folder / f"{leaf}{LOCAL}.yaml", _definition(leaf, definitions, data))
        if task in GROUPS:
            _write(folder / f"{task}{LOCAL}_group.yaml", _group(task, [leaf for leaf, _ in leaves]))
    return counts


def _definition(leaf: str, definitions: Path, data: Path) -> dict[str, Any]:
    if leaf.startswith("mmlu_"):
        own = TaskFiles("", f"mmlu/default/{leaf}.yaml")
        if not (definitions / own.definition).is_file():
            raise UserError(f"MMLU has no subject {leaf.removeprefix('mmlu_')!r}", FIELD, "take that file away")
    else:
        own = SINGLE[leaf]
    where = {"data_files": {own.split: str(data.resolve())}, "cache_dir": str(data.resolve().parent / "arrow")}
    splits = {f"{name}_split": None for name in ("training", "validation", "test", "fewshot")}
    return {
        "include": str(definitions / own.definition),
        "task": leaf + LOCAL,
        "tag": [],
        "dataset_path": "json",
        "dataset_name": None,
        **splits,
        f"{own.split}_split": own.split,
        "dataset_kwargs": where,
    }  # fmt: skip


def _group(task: str, leaves: Sequence[str]) -> dict[str, Any]:
    """Means over the tasks of a group, weighted by their size, as the harness's own groups have them."""
    metrics = ("acc",) if task == MMLU else ("acc", "acc_norm", "f1")
    weighted = [{"metric": m, "aggregation": "mean", "weight_by_size": True} for m in metrics]
    return {"group": task + LOCAL, "task": [leaf + LOCAL for leaf in leaves], "aggregate_metric_list": weighted}


def _write(path: Path, value: dict[str, Any]) -> None:
    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
