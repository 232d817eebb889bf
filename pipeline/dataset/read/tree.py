"""Trees of messages, as OpenAssistant publishes them: questions with several ranked answers each.

A tree becomes one conversation: from the root, always the reply with the best rank. Deleted messages and those that
the reviewers rejected are skipped, and so is a last question without an answer. Files hold whole trees (`prompt` with
`replies`) or one message in each row (`message_id`, `parent_id`); in the latter the messages of a tree must be
consecutive, as in the published files.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from pipeline.dataset.read.row import RawRow

MESSAGE = frozenset(("message_id", "parent_id", "role", "text"))  # fields of a row that is one message
TREE = frozenset(("message_tree_id", "prompt"))
MAX_MESSAGES = 200  # in a conversation


def is_message(names: Collection[str]) -> bool:
    return set(names) >= MESSAGE


def join_trees(raws: Iterable[RawRow]) -> Iterator[RawRow]:
    """The rows, with consecutive messages of one tree joined to one row; other rows stay as they are."""
    for _, group in itertools.groupby(enumerate(raws), _tree_of):
        rows = [raw for _, raw in group]
        value = rows[0].value
        if not (isinstance(value, dict) and is_message(value)):
            yield from rows
            continue
        nodes = {raw.value["message_id"]: {**raw.value, "replies": []} for raw in rows}
        roots: list[dict[str, Any]] = []
        for node in nodes.values():
            parent = nodes.get(node["parent_id"])
            (roots if parent is None or parent is node else parent["replies"]).append(node)
        for root in roots:
            yield RawRow({"message_tree_id": root.get("message_tree_id"), "prompt": root}, rows[0].place)


def _tree_of(numbered: tuple[int, RawRow]) -> Any:
    number, raw = numbered
    if raw.error or not isinstance(raw.value, dict) or not is_message(raw.value):
        return number
    return str(raw.value.get("message_tree_id") or f"row {number}")


def best_path(root: Any) -> list[dict[str, Any]]:
    """The messages of a tree along its best-ranked replies."""
    messages: list[dict[str, Any]] = []
    node = root
    while isinstance(node, dict) and len(messages) < MAX_MESSAGES:
        messages.append({"role": node.get("role"), "content": node.get("text")})
        replies = node.get("replies")
        usable = [r for r in replies if _usable(r)] if isinstance(replies, list) else []
        node = min(usable, key=_rank, default=None)
    if len(messages) > 1 and messages[-1]["role"] == "prompter":
        messages.pop()
    return messages


def _usable(node: Any) -> bool:
    return isinstance(node, dict) and not node.get("deleted") and node.get("review_result") is not False


def _rank(node: dict[str, Any]) -> float:
    rank = node.get("rank")
    return float(rank) if isinstance(rank, int | float) and rank == rank else float("inf")
