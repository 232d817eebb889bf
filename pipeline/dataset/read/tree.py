"""Trees of messages, as OpenAssistant publishes them: questions with several ranked answers each.

A tree becomes one conversation: from the root on, the reply with the best rank, then the best reply to that. Deleted
messages and those that the reviewers refused are passed over, and a last question without an answer is left off.
Files hold whole trees (`prompt` with `replies`) or a message a row (`message_id`, `parent_id`); of the latter,
messages of one tree must follow each other, as they do in the published files.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from pipeline.dataset.read.raw import Raw

MESSAGE = frozenset(("message_id", "parent_id", "role", "text"))  # the fields of a message in a row of its own
TREE = frozenset(("message_tree_id", "prompt"))
DEEPEST = 200  # messages in a conversation


def is_message(names: Collection[str]) -> bool:
    return set(names) >= MESSAGE


def gathered(raws: Iterable[Raw]) -> Iterator[Raw]:
    """The rows, with messages of one tree that follow each other put together as a tree; others stay as they are."""
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
            yield Raw({"message_tree_id": root.get("message_tree_id"), "prompt": root}, rows[0].place)


def _tree_of(numbered: tuple[int, Raw]) -> Any:
    number, raw = numbered
    if raw.error or not isinstance(raw.value, dict) or not is_message(raw.value):
        return number
    return str(raw.value.get("message_tree_id") or f"row {number}")


def conversation(root: Any) -> list[dict[str, Any]]:
    """The messages of a tree along its best-ranked replies."""
    found: list[dict[str, Any]] = []
    node = root
    while isinstance(node, dict) and len(found) < DEEPEST:
        found.append({"role": node.get("role"), "content": node.get("text")})
        replies = node.get("replies")
        usable = [r for r in replies if _usable(r)] if isinstance(replies, list) else []
        node = min(usable, key=_rank, default=None)
    if len(found) > 1 and found[-1]["role"] == "prompter":
        found.pop()
    return found


def _usable(node: Any) -> bool:
    return isinstance(node, dict) and not node.get("deleted") and node.get("review_result") is not False


def _rank(node: dict[str, Any]) -> float:
    rank = node.get("rank")
    return float(rank) if isinstance(rank, int | float) and rank == rank else float("inf")
