"""The licence of a base: by the card in its folder, or by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.schema import Model
from pipeline.model.base.licences import LARGEST, licence_by_name, licence_of, read_front_matter, texts


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("meta-llama/Llama-3.2-1B-Instruct", "llama3.2"), ("meta-llama/Meta-Llama-3-8B", "llama3"),
        ("meta-llama/Llama-2-7b-hf", "llama2"), ("huggyllama/llama-7b", "llama-license"),
        ("llama-13b-hf", "llama-license"),
        ("google/gemma-3-1b-it", "gemma"), ("google/gemma-7b", "gemma"), ("LGAI-EXAONE/EXAONE-4.0-1.2B", "exaone"),
        ("upstage/SOLAR-10.7B-Instruct-v1.0", "cc-by-nc-4.0"), ("upstage/SOLAR-10.7B-v1.0", "apache-2.0"),
        ("Qwen/Qwen2.5-3B", "qwen-research"), ("Qwen/Qwen2.5-7B", "apache-2.0"),
        ("SmolLM2-135M-Instruct", "apache-2.0"),
        ("EleutherAI/polyglot-ko-5.8b", "apache-2.0"),
        ("naver-hyperclovax/HyperCLOVAX-SEED-Text-Instruct-0.5B", "hyperclovax-seed"),
    ],
)  # fmt: skip
def test_known_bases(name: str, key: str) -> None:
    licence = licence_by_name(name)
    assert licence is not None
    assert licence.key == key


@pytest.mark.parametrize("name", ["someone/Llama-3.2-1B", "llama", "my-gemma-3-1b-it", "Qwen/Qwen2-VL-7B", ""])
def test_names_that_only_look_alike_are_not_known(name: str) -> None:
    assert licence_by_name(name) is None


def test_the_card_of_the_folder_comes_first(tmp_path: Path) -> None:
    folder = tmp_path / "Llama-2-7b-hf"
    folder.mkdir()
    assert licence_of(Model(base=str(folder)), folder).text == "Llama 2 Community License"
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# x\n")
    found = licence_of(Model(base=str(folder)), folder)
    assert (found.text, found.origin) == ("Apache License 2.0", "its own card")
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: house-rules\n---\n")
    found = licence_of(Model(base=str(folder)), folder)
    assert (found.licence, found.text) == (None, "house-rules")


def test_a_gguf_file_by_its_name_without_the_type(tmp_path: Path) -> None:
    path = tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf"
    path.write_bytes(b"GGUF")
    assert licence_of(Model(base=str(path)), None).text == "Apache License 2.0"


def test_random_weights_have_none() -> None:
    assert licence_of(Model(base="", geometry={"vocab_size": 3}, tokenizer="x"), None).text == ""


@pytest.mark.parametrize(
    "text", ["", "# no front matter", "---\n[unclosed\n---\n", "---\nlicense: mit", "---\n" + "[" * 5000 + "\n---\n"]
)
def test_a_card_that_cannot_be_read_says_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "README.md"
    path.write_text(text)
    assert not isinstance(read_front_matter(path), dict)
    assert read_front_matter(tmp_path / "missing") is None


def test_texts_of_a_licence(tmp_path: Path) -> None:
    for name in ("LICENSE", "LICENSE.txt", "Notice", "USE_POLICY.md", "config.json", "licensed.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "NOTICE.big").write_bytes(b"x" * (LARGEST + 1))
    (tmp_path / "LICENSES").mkdir()
    assert [path.name for path in texts(tmp_path)] == [
        "LICENSE",
        "LICENSE.txt",
        "Notice",
        "USE_POLICY.md",
    ]
    assert texts(None) == []
