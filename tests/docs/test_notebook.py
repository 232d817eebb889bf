"""docs/suri_colab.ipynb: a notebook that Jupyter opens, in two languages, whose cells run."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.checkout import ROOT, clean_environment, copy_of_checkout

NOTEBOOK = ROOT / "docs" / "suri_colab.ipynb"


def cells(kind: str) -> list[Any]:
    return [c for c in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == kind]


def test_jupyter_can_open_it() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [c["id"] for c in notebook["cells"]]
    assert len(set(ids)) == len(ids)


def test_its_text_is_english_and_korean() -> None:
    for cell in cells("markdown"):
        english, _, korean = "".join(cell["source"]).partition("\n---\n")
        assert re.search(r"[a-z]{3}", english)
        assert not re.search("[가-힣]", english)
        assert re.search("[가-힣]", korean)


def test_its_code_is_python_and_holds_no_output() -> None:
    for cell in cells("code"):
        ast.parse("".join(cell["source"]))
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


def test_files_that_it_links_to_are_there() -> None:
    text = "".join(line for cell in cells("markdown") for line in cell["source"])
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert [link for link in links if not (NOTEBOOK.parent / link).is_file()] == []


@pytest.mark.notebook
@pytest.mark.slow
def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, two steps of training; the rest as a reader runs it."""
    client = pytest.importorskip("nbclient", reason="needs the extra `notebook`")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    folder = copy_of_checkout(tmp_path / "checkout")
    for name in os.environ.keys() - clean_environment().keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_WAIT_POLICY", clean_environment()["OMP_WAIT_POLICY"])
    monkeypatch.setenv("SURI_NOTEBOOK_STEPS", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    notebook = nbformat.read(folder / "docs" / NOTEBOOK.name, as_version=4)
    nbformat.validate(notebook)
    client.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(folder / "docs")}}).execute()
    printed = ["".join(o.get("text", "") for o in c["outputs"]) for c in notebook.cells if c["cell_type"] == "code"]
    assert "40 rows in my_shop.jsonl" in printed[3]
    assert (folder / "export.zip").stat().st_size > 100e6
    assert (folder / "runs" / "notebook" / "export" / "model.safetensors").is_file()
