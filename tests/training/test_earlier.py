"""Runs of earlier versions, and keys that do not depend on places and times."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from pipeline import stages
from pipeline.config.schema import Config
from pipeline.run.files import sha256_file, sha256_json, write_json
from pipeline.run.folder import Run
from pipeline.training import checkpoint
from tests.helpers.tiny import make_config, run_to
from tests.helpers.training_runs import (
    QUICK,
    assert_same,
    copy_run,
)


def flip(path: Path, share: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(share * (len(data) - 1))] ^= 4
    path.write_bytes(data)


def test_a_touched_copied_or_moved_base_is_not_trained_again(
    quick: tuple[Config, Run], base: Path, tmp_path: Path
) -> None:
    run, moved = copy_run(quick, tmp_path), Path(shutil.copytree(base, tmp_path / "moved"))
    (moved / "README.json").write_text("{}")
    values = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(values, indent=3, sort_keys=True))
    for path in moved.iterdir():
        os.utime(path, (1, 1))
    assert stages.stale(make_config(tmp_path, moved, *QUICK), run, "train") == []
    (moved / "config.json").write_text(json.dumps({**values, "rms_norm_eps": 1e-3}))
    assert "train" in stages.stale(make_config(tmp_path, moved, *QUICK), run, "train")


def test_a_template_goes_by_what_it_renders(quick: tuple[Config, Run], base: Path, tmp_path: Path) -> None:
    run = copy_run(quick, tmp_path)
    form = (Path(stages.__file__).parent / "prompt" / "templates" / "alpaca-short.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(f"# a comment\n{form}\n\n")
    words = (*QUICK, f"prompt.template={tmp_path / 'mine.yaml'}")
    assert stages.stale(make_config(tmp_path, base, *words), run, "train") == []
    (tmp_path / "mine.yaml").write_text(form.replace("### Response", "### Answer"))
    assert stages.stale(make_config(tmp_path, base, *words), run, "train")[0] == "tokens"


def as_before(run: Run, config: Config, base: Path) -> None:
    """Puts keys as commit 6a21577 wrote them into a quick run."""
    listed = [p for p in sorted(base.glob("*")) if p.suffix in (".json", ".model", ".jinja")]
    inputs = {
        str(p): {"bytes": p.stat().st_size, "mtime": p.stat().st_mtime_ns, "sha256": sha256_file(p)} for p in listed
    }
    large = (base / "model.safetensors").stat()
    of = {"kind": "folder", "tokenizer": "", "weights": {"model.safetensors": [large.st_size, large.st_mtime_ns]},
          "inputs": inputs}  # fmt: skip
    data, tokens, adapter = (run.manifest(stage) or {} for stage in ("dataset", "tokens", "adapter"))
    form = Path(stages.__file__).parent / "prompt" / "templates" / "alpaca-short.yaml"
    before = {
        "version": 1, "prompt": tokens["key"]["prompt"], "template_file": sha256_file(form), "add_tokens": [],
        "tokenizer": of, "dataset": sha256_json([data["key"], data["files"]]),
    }  # fmt: skip
    now = adapter["key"]
    model = {name: value for name, value in config.value("model").items() if name != "rope_scaling"}  # a later key
    old = {**now, "version": 1, "model": model, "base": of,
           "tokens": sha256_json([before, tokens["files"]])}  # fmt: skip
    for stage, manifest, key in (("tokens", tokens, before), ("adapter", adapter, old)):
        unsealed = {name: value for name, value in manifest.items() if name != "sha256"}
        write_json(run.folder(stage) / "manifest.json", unsealed | {"key": key})
    owner = checkpoint.key_of(old, "")[0]
    for step in checkpoint.steps(run.folder("checkpoints")):
        place = checkpoint.folder_of(run.folder("checkpoints"), step) / "state.json"
        state = json.loads(place.read_text()) | {"key": owner}
        write_json(place, {name: value for name, value in state.items() if name not in ("files", "sha256")})


@pytest.mark.parametrize("whole", [True, False])
def test_a_run_of_an_earlier_version_is_taken_over(
    quick: tuple[Config, Run], base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], whole: bool
) -> None:
    run, config = copy_run(quick, tmp_path), make_config(tmp_path, base, *QUICK)
    as_before(run, config, base)
    if not whole:
        shutil.rmtree(run.folder("adapter"))
        shutil.rmtree(run.folder("checkpoints") / "step-000004")
    run_to(config, "train", tmp_path)
    assert ("an earlier version trained" if whole else "resuming from step 3 of 4") in " ".join(
        capsys.readouterr().out.split()
    )
    assert_same(run, quick[1])
    assert stages.stale(config, run, "train") == []


def test_a_run_of_an_earlier_version_on_another_base_is_not(
    quick: tuple[Config, Run], base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, config = copy_run(quick, tmp_path), make_config(tmp_path, base, *QUICK)
    as_before(run, config, base)
    other = Path(shutil.copytree(base, tmp_path / "base"))
    flip(other / "model.safetensors", 0.99)
    run_to(make_config(tmp_path, other, *QUICK), "train", tmp_path)
    said = capsys.readouterr().out
    assert "taken over" not in said
    assert "set aside" in said
