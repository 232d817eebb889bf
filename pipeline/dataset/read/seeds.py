"""Rows of self-instruct's seed tasks: one for each of a task's instances."""

from __future__ import annotations

from typing import Any

from pipeline.dataset.read import advice
from pipeline.dataset.read.content import lost, unused
from pipeline.dataset.read.raw import Raw


def instances(raw: Raw, found: Any, instruction: Any, task: str, needs_output: bool) -> list[Raw]:
    """The rows of a task, at least one; what is wrong with an instance costs only that.

    found: the value of the field `instances`. needs_output: whether an instance without an output is refused.
    """
    if not isinstance(found, list) or not found:
        return [raw.refused("no-instances", "its list of instances is empty, or is no list (form: seeds)")]
    made = []
    for k, instance in enumerate(found, 1):
        place = f"{raw.place}, instance {k}" if len(found) > 1 else raw.place
        if isinstance(instance, dict) and not needs_output:
            instance = {"output": "", **instance}
        if not isinstance(instance, dict) or "output" not in instance:
            made.append(raw.refused("output-missing", "the instance has no field 'output' (form: seeds)", place))
            continue
        texts = {"instruction": instruction, "input": instance.get("input"), "output": instance["output"]}
        one = Raw({**texts, "task": task}, place)
        names = lost(instance, unused(tuple(instance), ("input", "output"), has_input=True), [one])
        made.append(raw.refused("field-not-used", advice.for_list(names, "the input"), place) if names else one)
    return made
