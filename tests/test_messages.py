"""What users are told when something is wrong: one golden file of all messages, so that a change of one is seen."""

from __future__ import annotations

from tests.helpers.messages import GOLDEN, messages


def test_messages_are_those_of_the_golden_file() -> None:
    again = "run `python -m tests.helpers.messages` and read the diff of tests/golden/messages.txt"
    assert messages() == GOLDEN.read_text(), again
