"""YAML from outside as plain data, with a bound on the number of values that its aliases expand to.

Nine lines of aliases to aliases can stand for 10^9 values, so they are counted before the document is expanded.
"""

from __future__ import annotations

from typing import Any

import yaml

MOST = 100_000  # values of a document with its aliases written out


def parsed(text: str, loader: Any = yaml.SafeLoader) -> tuple[Any, Any]:
    """The document's tree (None when it is empty) and its plain data.

    Raises:
        yaml.YAMLError: not valid, or its aliases stand for more than `MOST` values, or one holds itself.
        ValueError, RecursionError: a number has too many digits; brackets are nested too deeply.
    """
    node = yaml.compose(text, Loader=loader)
    if node is None:
        return None, None
    if _size(node, {}) > MOST and "*" in text:
        what = f"its aliases (*) stand for more than {MOST:,} values"
        raise yaml.MarkedYAMLError(problem=what, problem_mark=node.start_mark)
    return node, yaml.load(text, Loader=loader)


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for; each node is looked at once."""
    at = id(node)
    if at not in known:
        known[at] = -1  # being counted
        inside: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inside = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inside = node.value
        known[at] = 1 + sum(_size(part, known) for part in inside)
    if known[at] < 0:
        raise yaml.MarkedYAMLError(problem="an alias holds itself", problem_mark=node.start_mark)
    return known[at]
