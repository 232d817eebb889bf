"""Runs of versions whose keys held folders, times and a template's bytes: what they trained is taken over, not redone.

`key` is the training stage's key as those versions wrote it (its version 1). Where it fits what lies in a run folder,
the folder gets today's key; where a file was touched since, it does not fit, and the run is trained again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.model.base import Base, kind_of
from pipeline.prompt import template as templates
from pipeline.prompt.stage import rules
from pipeline.run.digest import digest
from pipeline.run.files import read_json, sealed, sha256_json, write_json
from pipeline.run.folder import Run
from pipeline.run.progress import say
from pipeline.training import checkpoint

TOKENIZER_FILES = (
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json",
)  # fmt: skip


def take_over(config: Config, run: Run, base: Base, stage_key: dict[str, Any]) -> bool:
    """Gives checkpoints and a finished adapter of an earlier version today's key; True where nothing is left to train.

    To be called by the first process, which holds the lock.
    """
    root, manifest = run.folder("checkpoints"), run.manifest("adapter")
    if not checkpoint.steps(root) and manifest is None:
        return False
    if "not_decayed" in stage_key:  # weight decay reached biases and norms then
        return False
    earlier = key(config, run, stage_key)
    owner, now = (checkpoint.key_of(k, base.commit)[0] for k in (earlier, stage_key))
    for step in checkpoint.steps(root):
        place = checkpoint.folder_of(root, step) / checkpoint.STATE
        state = read_json(place)
        if isinstance(state, dict) and state.get("key") == owner:
            write_json(place, state | {"key": now})
    alone = os.environ.get("WORLD_SIZE", "1") == "1"  # others may have begun to train by now
    if not alone or manifest is None or manifest["key"] != json.loads(json.dumps(earlier)):
        return False
    if not run.is_current("adapter", earlier):
        return False
    write_json(run.folder("adapter") / "manifest.json", sealed({**manifest, "key": stage_key}))
    say(f"train: an earlier version of Suri trained this; taken over ({run.folder('adapter')})")
    return True


def key(config: Config, run: Run, stage_key: dict[str, Any]) -> dict[str, Any]:
    """The training stage's key in its version 1. stage_key: today's."""
    base = _base(config)
    tokens = {
        "version": 1,
        "prompt": {**rules(config), "template": templates.load(config.prompt.template).hash},
        "template_file": digest(templates.path_of(config.prompt.template)),
        "add_tokens": config.value("model.add_tokens"),
        "tokenizer": base,
        "dataset": _result(run, "dataset"),
    }
    files = (run.manifest("tokens") or {}).get("files")
    same = {name: stage_key[name] for name in ("adapter", "train", "ewc_data")}
    return {"version": 1, "model": config.value("model"), "base": base, "tokens": sha256_json([tokens, files]), **same}


def _result(run: Run, stage: str) -> str:
    manifest = run.manifest(stage)
    return sha256_json([manifest["key"], manifest["files"]]) if manifest else "missing"


def _base(config: Config) -> dict[str, Any]:
    model = config.model
    kind, path = kind_of(model), Path(model.base)
    own = [Path(model.tokenizer) / name for name in TOKENIZER_FILES] if model.tokenizer else []
    files = [p for p in own if p.is_file()]
    found: dict[str, Any] = {"kind": kind, "tokenizer": model.tokenizer}
    if kind == "geometry":
        found["geometry"] = model.geometry
    elif kind == "hub":
        found["id"] = f"{model.base}@{model.revision}" if model.revision else model.base
    elif kind == "gguf":
        files.append(path)
    else:
        files += [p for p in sorted(path.glob("*")) if p.suffix in (".json", ".model", ".jinja") and _is_small(p)]
        found["weights"] = {
            p.name: [p.stat().st_size, p.stat().st_mtime_ns] for p in sorted(path.glob("*.safetensors"))
        }
    inputs = {str(p): {"bytes": p.stat().st_size, "mtime": p.stat().st_mtime_ns, "sha256": digest(p)} for p in files}
    return {**found, "inputs": inputs}


def _is_small(path: Path) -> bool:
    return path.is_file() and path.stat().st_size < 50e6
