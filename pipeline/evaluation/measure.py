"""Losses and greedy answers of one model, row by row, each computed once and cached.

    runs/NAME/measurements/base.jsonl, tuned.jsonl
        {"key": ...}                                          hash of the model
        {"name": "loss HASH", "sum": nats, "count": tokens}   HASH: of the row's ids and labels
        {"name": "answer HASH", "ids": [...], "limit": 32}    HASH: of the prompt's ids; limit: new tokens at most

Export, evaluation, comparison and the adapter store measure through here: a result that one of them has measured is not
computed again by the others, and a stopped command continues.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config.method_rules import spec_of
from pipeline.config.schema import Model
from pipeline.dataset.example import Example
from pipeline.evaluation.answers import Answer, read
from pipeline.evaluation.shots import Shots
from pipeline.model.base import identity
from pipeline.model.exported import exported_model, free_memory
from pipeline.model.generate import NotFinite, greedy
from pipeline.model.loss import row_losses
from pipeline.model.memory import each_group
from pipeline.model.precision import dtype_name
from pipeline.model.run_base import RunBase
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.batch import pad
from pipeline.prompt.encode import IGNORE
from pipeline.prompt.tokens import Tokens
from pipeline.run.files import sha256_json
from pipeline.run.folder import Run
from pipeline.run.progress import bar, say
from pipeline.run.result_cache import ResultCache


class MeasuredModel:
    """A model with the cache of its results.

    Args:
        path: of the cache. key: identifies the model, see `base_key` and `tuned_key`.
        load: returns the model; called at the first result that is not cached. label: the model's name in messages.
    """

    def __init__(
        self, path: Path, key: Mapping[str, Any], encoder: AnyEncoder, load: Callable[[], Any], label: str
    ) -> None:
        form = {"version": 1, "tokenizer": encoder.tokenizer.hash, "end_id": encoder.end_id}
        self.cache = ResultCache(path, {**form, **key, **_libraries()})
        self.encoder, self.label = encoder, label
        self._load = load
        self._model: Any = None

    @property
    def model(self) -> Any:
        """The loaded model."""
        if self._model is None:
            torch.manual_seed(0)  # rows of new tokens are random
            self._model = self._load()
        return self._model

    def release(self) -> None:
        """Frees the model's memory; the model is loaded again when it is needed."""
        self._model = None
        free_memory()

    def answers(
        self, examples: Sequence[Example], max_new_tokens: int, what: str, shots: Shots | None = None, batch: int = 0
    ) -> list[Answer]:
        """Greedy answers to examples, in their order.

        Args:
            what: for the progress bar. shots: puts training rows in front of each. batch: prompts at once, 0 = auto.

        Raises:
            NotFinite: the model gave NaN or infinity; its `rows` are indices of examples.
        """
        encoder = self.encoder
        prompts = [shots.prompt(e) if shots else encoder.prompt_for(e) for e in examples]
        names = [f"answer {_hash(prompt)}" for prompt in prompts]
        cached = self.cache.results
        missing = list({name: i for i, name in enumerate(names) if not self._covers(name, max_new_tokens)}.values())
        if missing:
            self._print_cached(what, len(names) - len(missing), len(names), "answers")
            try:
                greedy(
                    self.model, [prompts[i] for i in missing], end_id=encoder.end_id, max_new_tokens=max_new_tokens,
                    what=f"{self.label}: {what}", batch=batch,
                    done=lambda rows: self.cache.add(
                        {names[missing[n]]: {"ids": ids, "limit": max_new_tokens} for n, ids in rows.items()}
                    ),
                )  # fmt: skip
            except NotFinite as error:
                raise NotFinite([missing[n] for n in error.rows], error.where) from None
        ids = [cached[name]["ids"][:max_new_tokens] for name in names]
        return [read(encoder, example, answer) for example, answer in zip(examples, ids, strict=True)]

    def _covers(self, name: str, max_new_tokens: int) -> bool:
        """Whether the cached answer suffices: a greedy answer begins with the answer to any lower limit."""
        answer = self.cache.results.get(name)
        if answer is None:
            return False
        return answer["limit"] >= max_new_tokens or self.encoder.end_id in answer["ids"]

    def losses(self, tokens: Any, rows: Sequence[int], what: str) -> tuple[list[float], list[int]]:
        """As `row_sums`, from the cache where it has the row."""
        names = [f"loss {_hash(*tokens.row(i))}" for i in rows]
        missing = {name: i for name, i in zip(names, rows, strict=True) if name not in self.cache.results}
        if missing:
            self._print_cached(what, len(names) - len(missing), len(names), "losses")
            sums, counts = row_sums(self.model, tokens, list(missing.values()), f"{self.label}: {what}")
            measured = zip(missing, sums, counts, strict=True)
            self.cache.add({name: {"sum": total, "count": count} for name, total, count in measured})
        cached = [self.cache.results[name] for name in names]
        return [row["sum"] for row in cached], [row["count"] for row in cached]

    def result(
        self, what: str, settings: Mapping[str, Any], measure: Callable[[Any], dict[str, Any]]
    ) -> dict[str, Any]:
        """Another result of the model that depends on `settings`: the cached one, or `measure(model)`."""
        name = f"{what} {sha256_json(dict(settings))[:32]}"
        if name in self.cache.results:
            say(f"{self.label}: {what}: taken from an earlier measurement")
        else:
            self.cache.add({name: measure(self.model)})
        return self.cache.results[name]

    def _print_cached(self, what: str, cached: int, total: int, kind: str) -> None:
        if cached:
            say(f"{self.label}: {what}: {cached:,} of {total:,} {kind} taken from an earlier measurement")


def held_out_loss(model: Any, tokens: Tokens, rows: Sequence[int]) -> float:
    """Mean of -log p over all labelled tokens of the rows, in nats; NaN where there are none."""
    sums, counts = row_sums(model, tokens, rows, "held-out loss")
    return sum(sums) / sum(counts) if any(counts) else math.nan


@torch.inference_mode()
def row_sums(
    model: Any, tokens: Any, rows: Sequence[int], what: str, unit: str = "row"
) -> tuple[list[float], list[int]]:
    """For each row the sum of -log p over its labelled tokens, in nats, and the number of these tokens.

    Args:
        tokens: `Tokens` or `EncodedRows`. what, unit: for the progress bar.
    """
    was_training = model.training
    model.eval()
    sums, counts = [0.0] * len(rows), [0] * len(rows)

    def measured(group: list[int]) -> list[float]:
        losses: list[float] = row_losses(model, pad([tokens.row(rows[i]) for i in group])).tolist()
        return losses

    try:
        with bar(total=len(rows), what=what, unit=unit) as progress:
            for group, losses in each_group(model, [int(tokens.lengths[i]) for i in rows], measured):
                for i, value in zip(group, losses, strict=True):
                    sums[i], counts[i] = value, int((tokens.row(rows[i])[1][1:] != IGNORE).sum())
                progress.update(len(group))
    finally:
        model.train(was_training)
    return sums, counts


def base_key(model: Model) -> dict[str, Any]:
    """Identifies the base as a run loads it."""
    return {"model": identity.settings(model), "base": identity.identity(model), "dtype": dtype_name(model)}


def tuned_key(base: RunBase, dtype: str, hashes: Mapping[str, str]) -> dict[str, Any]:
    """Identifies what a run exported.

    Where no weights were trained that is the base; where the export is an adapter, base and adapter.

    Args:
        dtype: of merged weights. hashes: sha256 of the export's files by name; those of its weights count.
    """
    kind = spec_of(base.adapter).export
    if kind == "nothing":
        return base_key(base.model)
    start = base_key(base.model) if kind == "adapter" else {"dtype": dtype}
    return {**start, "weights": {name: digest for name, digest in hashes.items() if is_model_file(name)}}


def base_model(folder: Path, base: RunBase) -> MeasuredModel:
    """The run's base, loaded when a result is missing. folder: of measurements."""
    return MeasuredModel(folder / "base.jsonl", base_key(base.model), base.encoder, base.load, "base")


def tuned_model(run: Run, base: RunBase, dtype: str) -> MeasuredModel:
    """What the run exported, loaded when a result is missing; where no weights were trained that is the base.

    Args:
        dtype: of merged weights.
    """
    who = "base" if spec_of(base.adapter).export == "nothing" else "tuned"
    path = run.folder("measurements") / f"{who}.jsonl"
    files = (run.manifest("export") or {}).get("files", {})
    key = tuned_key(base, dtype, {name: entry["sha256"] for name, entry in files.items()})
    return MeasuredModel(
        path, key, base.encoder, lambda: exported_model(run.folder("export"), dtype, lambda: base), "tuned"
    )


def is_model_file(file: str) -> bool:
    """Whether a file of an export belongs to its weights; those of further formats, in folders, do not."""
    return "/" not in file and (file.endswith(".safetensors") or file in ("config.json", "adapter_config.json"))


def _libraries() -> dict[str, Any]:
    return {"libraries": {name: metadata.version(name) for name in ("torch", "transformers", "peft")}}


def _hash(*rows: Sequence[int] | np.ndarray) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(np.ascontiguousarray(row, dtype=np.int64).tobytes() + b"|")
    return digest.hexdigest()[:32]
