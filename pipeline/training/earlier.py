"""Takes over runs of earlier versions, whose keys contained folders, times and a template's bytes.

`key` computes the training stage's key as those versions wrote it (version 1). If the run folder has it, it gets the
present key. If a file was touched since, the keys differ and the run is trained again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config, Model
from pipeline.model.base import Base, kind_of
from pipeline.prompt import template as templates
from pipeline.prompt.stage import prompt_settings
from pipeline.run.files import read_json, sealed, sha256_json, write_json
from pipeline.run.folder import Run
from pipeline.run.hash_cache import cached_sha256
from pipeline.run.progress import say
from pipeline.training import checkpoint

TOKENIZER_FILES = (
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json",
)  # fmt: skip


def take_over(config: Config, run: Run, base: Base, stage_key: dict[str, Any]) -> bool:
    """Gives checkpoints and a finished adapter of an earlier version the present key; True if the adapter is finished.

    To be called by the first process, which has the lock.
    """
    root, manifest = run.folder("checkpoints"), run.manifest("adapter")
    if not checkpoint.steps(root) and manifest is None:
        return False
    if config.prompt.is_chat or "not_decayed" in stage_key:  # no chat templates then, and biases decayed too
        return False
    earlier = key(config, run, stage_key)
    owner, now = (checkpoint.key_of(k, base.commit)[0] for k in (earlier, stage_key))
    for step in checkpoint.steps(root):
        path = checkpoint.folder_of(root, step) / checkpoint.STATE
        state = read_json(path)
        if isinstance(state, dict) and state.get("key") == owner:
            write_json(path, state | {"key": now})
    alone = os.environ.get("WORLD_SIZE", "1") == "1"  # other ranks may train already
    if not alone or manifest is None or manifest["key"] != json.loads(json.dumps(earlier)):
        return False
    if not run.is_current("adapter", earlier):
        return False
    write_json(run.folder("adapter") / "manifest.json", sealed({**manifest, "key": stage_key}))
    say(f"train: the adapter that an earlier version trained is used ({run.folder('adapter')})")
    return True


def key(config: Config, run: Run, stage_key: dict[str, Any]) -> dict[str, Any]:
    """The training stage's key in version 1. stage_key: the present one."""
    base = _base(config.model)
    tokens = {
        "version": 1,
        "prompt": {**prompt_settings(config.prompt), "template": templates.load(config.prompt.template).hash},
        "template_file": cached_sha256(templates.path_of(config.prompt.template)),
        "add_tokens": config.value("model.add_tokens"),
        "tokenizer": base,
        "dataset": run.whole("dataset"),
    }
    files = (run.manifest("tokens") or {}).get("files")
    same = {name: stage_key[name] for name in ("adapter", "train", "ewc_data")}
    model = {name: value for name, value in config.value("model").items() if name != "rope_scaling" or value}
    return {"version": 1, "model": model, "base": base, "tokens": sha256_json([tokens, files]), **same}


def _base(model: Model) -> dict[str, Any]:
    kind, path = kind_of(model), Path(model.base)
    own = [Path(model.tokenizer) / name for name in TOKENIZER_FILES] if model.tokenizer else []
    files = [p for p in own if p.is_file()]
    base: dict[str, Any] = {"kind": kind, "tokenizer": model.tokenizer}
    if kind == "geometry":
        base["geometry"] = model.geometry
    elif kind == "hub":
        base["id"] = f"{model.base}@{model.revision}" if model.revision else model.base
    elif kind == "gguf":
        files.append(path)
    else:
        files += [p for p in sorted(path.glob("*")) if p.suffix in (".json", ".model", ".jinja") and _is_small(p)]
        base["weights"] = {p.name: [p.stat().st_size, p.stat().st_mtime_ns] for p in sorted(path.glob("*.safetensors"))}
    inputs = {
        str(p): {"bytes": p.stat().st_size, "mtime": p.stat().st_mtime_ns, "sha256": cached_sha256(p)} for p in files
    }
    return {**base, "inputs": inputs}


def _is_small(path: Path) -> bool:
    return path.is_file() and path.stat().st_size < 50e6
