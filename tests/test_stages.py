"""The chain of stages: what re-runs when, what is said, and who may import whom."""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import stages
from pipeline.config.load import load
from pipeline.config.schema import Model
from pipeline.run.folder import Run
from tests.helpers.tiny import HEAVY, make_config, run_to

ROOT = Path(__file__).parents[1]
# In the order in which data passes them; a room uses only itself and the rooms before it.
ROOMS = ["run", "config", "demo", "api", "dataset", "prompt", "kernels", "pages", "model", "evaluation", "ranks",
         "training", "store", "release", "serving", "data_report", "comparison", "synthesis",
         "synthesis_report", "run_report"]  # fmt: skip
# With the room `cli` they may use every room, and no room uses them.
FRONT = {"pipeline.stages", "pipeline.stage_keys", "pipeline.command", "pipeline.config_files", "pipeline.__main__"}


@pytest.fixture(scope="module")
def done(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A run that was brought all the way."""
    folder = tmp_path_factory.mktemp("chain")
    return folder, run_to(make_config(folder, base, "train.max_steps=2"), "export", folder)


@pytest.mark.parametrize(
    ("override", "again"),
    [
        ("train.lr=0.02", ["train", "export"]),
        ("train.keep=5", []),
        ("train.shard=full", []),
        ("train.tracker=tensorboard", []),
        ("train.save_every=2", []),
        ("export.dtype=bf16", ["export"]),
        ("eval.rows=3", ["export"]),
        ("prompt.cutoff=201", ["tokens", "train", "export"]),
        ("adapter.r=2", ["train", "export"]),
        ("data.val=9", ["data", "tokens", "train", "export"]),
        ("chat.temperature=1", []),
        ("model.dtype=auto", ["train", "export"]),
    ],
)
def test_one_key_reruns_what_depends_on_it(done: tuple[Path, Run], base: Path, override: str, again: list[str]) -> None:
    folder, run = done
    config = make_config(folder, base, "train.max_steps=2", override)
    stale = stages.stale(config, run)
    # A stage behind a stale one is stale too, once that one has run: its own key then carries another result.
    first = stale[:1]
    assert first == again[:1]
    if again:
        names = [s.name for s in stages.wanted(config, "export")]
        assert names[names.index(again[0]) :] == again


def test_finished_chain_says_up_to_date(done: tuple[Path, Run], base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, run = done
    before = {p: p.stat().st_mtime_ns for p in run.root.rglob("*") if p.is_file()}
    run_to(make_config(folder, base, "train.max_steps=2"), "export", folder)
    assert capsys.readouterr().out.count("up to date") == 4
    assert {p: p.stat().st_mtime_ns for p in run.root.rglob("*") if p.is_file()} == before


def test_up_to_date_needs_no_torch(done: tuple[Path, Run], base: Path) -> None:
    folder, _ = done
    make_config(folder, base)
    code = (
        "import sys; from pipeline.cli.main import start\n"
        f"start(['export', {str(folder / 'tiny.yaml')!r}, 'train.max_steps=2'])\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env={**os.environ, "RUNS": str(folder)}
    )
    assert made.stdout.count("up to date") == 4, made.stderr
    assert made.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    ("last", "before"),
    [
        ("report", ["generate", "data", "tokens"]),
        ("eval", ["generate", "data", "tokens", "train", "export"]),
        ("judge", ["generate", "data", "tokens", "train", "export", "compare"]),
    ],
)
def test_a_stage_comes_after_all_that_it_needs(last: str, before: list[str]) -> None:
    assert [stage.name for stage in stages.up_to(last)] == [*before, last]


def test_a_command_resolves_the_base_once(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved: list[Model] = []
    resolve = stages.bases.resolve
    monkeypatch.setattr(stages.bases, "resolve", lambda model: resolved.append(model) or resolve(model))
    run_to(make_config(tmp_path, base, "train.max_steps=1"), "train", tmp_path)
    assert len(resolved) == 1


def test_missing_result_is_made_again(base: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, base, "train.max_steps=2")
    run = Run(tmp_path / "tiny")
    stages.bring_up_to_date(config, run, "tokens")
    (run.folder("tokens") / "val.arrow").unlink()
    assert stages.stale(config, run)[0] == "tokens"
    stages.bring_up_to_date(config, run, "tokens")
    assert stages.stale(config, run)[0] == "train"


def test_second_run_in_one_folder_stops(base: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, base)
    run = Run(tmp_path / "tiny")
    with run.lock():
        made = subprocess.run(
            [sys.executable, "-m", "scripts.data", "--config", str(tmp_path / "tiny.yaml")],
            capture_output=True, text=True, cwd=ROOT, env={**os.environ, "RUNS": str(tmp_path)},
        )  # fmt: skip
    assert made.returncode == 2
    assert f"in use by process {os.getpid()}" in made.stderr
    assert "Traceback" not in made.stderr
    assert config.name == "tiny"


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    files = (ROOT / "pipeline").rglob("*.py")
    return {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in files}


@functools.cache
def imports(module: str) -> set[str]:
    """The modules of the package that a module imports, wherever in the file."""
    used = set()
    for node in ast.walk(ast.parse(modules()[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            used |= (names & modules().keys()) or ({node.module} & modules().keys())
        elif isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names} & modules().keys()
    return used


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def test_rooms_use_only_rooms_before_them() -> None:
    for module in modules():
        if module in FRONT or room(module) in ("pipeline", "cli"):
            continue
        allowed = ROOMS[: ROOMS.index(room(module)) + 1]
        wrong = {other for other in imports(module) if other != "pipeline" and room(other) not in allowed}
        assert not wrong, f"{module} uses {wrong}"


def test_no_two_files_import_each_other() -> None:
    """Nor do more of them in a circle."""
    left = {module: set(imports(module)) - {module} for module in modules()}
    while free := {module for module, used in left.items() if not used & left.keys()}:
        left = {module: used for module, used in left.items() if module not in free}
    assert not left, f"in circles, or behind one: {sorted(left)}"


def test_early_rooms_have_no_torch() -> None:
    for room in ("dataset", "prompt"):
        for path in (ROOT / "pipeline" / room).rglob("*.py"):
            top = [n for n in ast.parse(path.read_text()).body if isinstance(n, (ast.Import, ast.ImportFrom))]
            names = {a.name.split(".")[0] for n in top if isinstance(n, ast.Import) for a in n.names}
            names |= {(n.module or "").split(".")[0] for n in top if isinstance(n, ast.ImportFrom)}
            assert not names & {"torch", "transformers", "datasets"}, path


def test_every_config_loads() -> None:
    for path in (ROOT / "configs").glob("*.yaml"):
        assert load(path).name == path.stem
