"""Problems between keys of a config that are each right by themselves."""

from __future__ import annotations

import os

from pipeline.config.method_rules import Problem, method_problems
from pipeline.config.schema import DATE, Config, Data, Prompt
from pipeline.config.synthesis_rules import synthesis_problems
from pipeline.run.object_address import NO_CREDENTIALS, holds_credentials

LOCAL = "is for hub ids; what lies here is what it is: remove this"


def contradictions(config: Config, model: bool = True) -> list[Problem]:
    """Every problem as (key, what is wrong with it and what to do); `model`: whether a base model is needed."""
    problems: list[Problem] = []
    if model and not config.model.base and not config.model.geometry:
        problems.append((("model", "base"), "missing; name a hub id, a folder or a .gguf file"))
    if config.model.geometry is not None and not isinstance(config.model.geometry.get("model_type"), str):
        problems.append((("model", "geometry"), "needs model_type, such as llama"))
    if config.model.revision and (not config.model.base or os.path.exists(config.model.base)):
        problems.append((("model", "revision"), LOCAL))
    problems += method_problems(config)
    if config.model.quantize == "fp8" and not config.train.fast:
        problems.append(
            (("train", "fast"), "model.quantize=fp8 needs the fast path; set train.fast=true or quantize=nf4")
        )
    problems += _of_prompt(config.prompt)
    problems += _of_data(config.data)
    problems += _of_forgetting(config)
    problems += synthesis_problems(config.synthesis)
    if config.eval.num_fewshot and config.eval.task_files:
        what = "files hold no training rows to take examples from; set it to 0, or read the hub (eval.task_files empty)"
        problems.append((("eval", "num_fewshot"), what))
    if len(set(config.eval.tasks)) < len(config.eval.tasks):
        problems.append((("eval", "tasks"), "names a benchmark twice"))
    problems += [
        (("train", key), "needs held-out rows, and data.val is 0; set data.val, such as 200, or remove this")
        for key in ("early_stop", "best")
        if getattr(config.train, key) and not config.data.val
    ]
    if config.train.warmup > 1 and config.train.warmup != int(config.train.warmup):
        what = f"{config.train.warmup} is neither a share below 1 nor whole steps"
        problems.append((("train", "warmup"), what))
    if config.train.accumulation_4_28 and config.train.batch_size % config.train.accumulation_4_28:
        what = f"does not divide train.batch_size, {config.train.batch_size}, into equal micro-batches"
        problems.append((("train", "accumulation_4_28"), what))
    return problems


def _of_prompt(prompt: Prompt) -> list[Problem]:
    if not prompt.is_chat:
        needs = "is for chat templates; set prompt.template to one (base, chatml, ...), or remove this"
        found = [key for key, default in (("loss", "answers"), ("date", DATE)) if getattr(prompt, key) != default]
        found += ["too_long"] if prompt.too_long == "split" else []
        return [(("prompt", key), needs) for key in found]
    problems: list[Problem] = []
    if not prompt.mask_prompt:
        problems.append((("prompt", "mask_prompt"), "is for rows; with a chat template set prompt.loss=all"))
    if prompt.too_long == "split" and prompt.loss == "all":
        problems.append((("prompt", "too_long"), "split repeats history, which loss=all would learn twice; take cut"))
    for key, default in (("join", "apart"), ("bos", "auto"), ("strip_end", False)):
        if getattr(prompt, key) != default:
            problems.append((("prompt", key), f"a chat template decides this; remove it, or take {default}"))
    return problems


def _of_forgetting(config: Config) -> list[Problem]:
    train = config.train
    if train.ewc_data and not train.ewc:
        return [(("train", "ewc_data"), "does nothing without train.ewc")]
    if train.ewc and not train.ewc_data and not any(s.rehearsal for s in config.data.sources):
        what = "EWC without general data; name a text with train.ewc_data, or mark a source `rehearsal: true`"
        return [(("train", "ewc"), what)]
    if train.ewc_data and train.ewc_data == config.eval.general:
        return [(("train", "ewc_data"), "is eval.general too: one would guard what one measures; name another text")]
    return []


def _of_data(data: Data) -> list[Problem]:
    problems: list[Problem] = []
    if data.val_exact_only and not any(s.exact or s.path == "families" for s in data.sources):
        problems.append((("data", "val_exact_only"), "no source is marked `exact: true`"))
    for i, source in enumerate(data.sources):
        key = ("data", "sources", i)
        if source.path == "families" and source.rows is None:
            problems.append(((*key, "rows"), "missing; say how many rows `families` shall make"))
        if source.revision and (source.path == "families" or "://" in source.path or os.path.exists(source.path)):
            problems.append(((*key, "revision"), LOCAL))
        if holds_credentials(source.path):
            problems.append(((*key, "path"), f"the address holds credentials; {NO_CREDENTIALS}"))
        if source.path == "families" and source.columns:
            problems.append(((*key, "columns"), "`families` has the fields it needs; remove this"))
        if source.rehearsal and source.weight is not None:
            problems.append(((*key, "weight"), "a rehearsal source has no weight; data.rehearsal says its share"))
    marked = [s for s in data.sources if s.rehearsal]
    if data.rehearsal and not marked:
        problems.append((("data", "rehearsal"), "no source is marked `rehearsal: true`"))
    if marked and not data.rehearsal:
        problems.append((("data", "rehearsal"), "missing; say which share of training the rehearsal sources make up"))
    if marked and len(marked) == len(data.sources):
        problems.append(
            (("data", "sources"), "every source is marked `rehearsal`; there is nothing to learn beside it")
        )
    if 0 < data.duplicates.near < 0.05:
        problems.append(
            (("data", "duplicates", "near"), "below 0.05 most alike rows would be missed; 0 looks for none")
        )
    return problems
