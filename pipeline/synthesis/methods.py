"""From the config to the method that makes rows."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.synthesis import Synthesis
from pipeline.dataset.example import Example
from pipeline.run.files import json_lines
from pipeline.synthesis.generation import Method
from pipeline.synthesis.self_instruct import SelfInstruct


def method(settings: Synthesis) -> Method:
    """The method that the config names."""
    rows = [row for path in settings.seeds for row in json_lines(Path(path))]
    seeds = [Example.of(row["instruction"], row["input"], row["output"], source="seeds") for row in rows]
    return SelfInstruct(settings, seeds)
