"""Files of a store, and changes to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from pipeline.config.schema import Config
from pipeline.model.base import resolve
from pipeline.model.run_base import RunBase
from pipeline.store.folder import Store
from pipeline.store.load import open_stored
from tests.helpers.stored_adapters import plain


def filled(store: Store, *names: str) -> None:
    """Adapters that are none: for what does not look inside."""
    for name in names:
        with store.writing(name) as folder:
            (folder / "weights").write_text(name)


def everything(folder: Path) -> dict[str, str]:
    """Path and hash of all files below a folder."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


IDS = torch.arange(3, 43)[None]


@torch.inference_mode()
def logits(config: Config, store: Store, name: str) -> torch.Tensor:
    model, _ = open_stored(RunBase.of(config, resolve(config.model)), store, name)
    return model(input_ids=IDS).logits


def edit(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def update(folder: Path, base: Path) -> dict[str, torch.Tensor]:
    """What stock peft adds to each layer."""
    model = PeftModel.from_pretrained(plain(base), folder)
    layers = {name: m for name, m in model.named_modules() if hasattr(m, "get_delta_weight")}
    return {name: m.get_delta_weight("default").double() for name, m in layers.items()}
