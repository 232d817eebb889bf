"""Types, layouts and cards are at the bottom, Triton kernels above them, dispatch on top, without import circles."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for room in ("kernels", "model/packed")
    for path in (ROOT / "pipeline" / room).glob("*.py")
    if path.stem != "__init__"
}


def imports(path: Path) -> set[str]:
    """Those of `FILES` that a file imports anywhere, also inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & FILES.keys()


def test_no_import_circles() -> None:
    order = list(TopologicalSorter({name: imports(path) for name, path in FILES.items()}).static_order())
    assert set(order) == FILES.keys()


def test_triton_kernels_import_only_types_layouts_and_cards() -> None:
    below = {"pipeline.kernels.types", "pipeline.kernels.layout", "pipeline.kernels.card"}
    kernels = {name: path for name, path in FILES.items() if path.stem.startswith("triton_")}
    assert len(kernels) == 9
    # Shared by attention's forward pass and gradients, and by all that quantize rows.
    parts = {"pipeline.kernels.triton_attention_tiles", "pipeline.kernels.triton_fp8"}
    assert {name: imports(path) - below - parts for name, path in kernels.items()} == {name: set() for name in kernels}
    assert all(imports(FILES[name]) <= below for name in parts)
    assert all(not imports(FILES[name]) for name in below)
