"""Folders with small tokenizers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.tokenizers import byte_level, sentence_piece


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tokenizers")
    return {"tokenizers": byte_level(root / "fast"), "sentencepiece": sentence_piece(root / "spm")}


@pytest.fixture(params=["tokenizers", "sentencepiece", "llama"])
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    """A tokenizer of each kind, and LLaMA's own where the real data is."""
    if request.param == "llama":
        return Path(request.getfixturevalue("shared_data")) / "llama_tokenizer"
    return folders[request.param]
