"""What can be told of an export before any stage is made. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config.load import former_base
from pipeline.config.schema import Config
from pipeline.model.base import identity
from pipeline.release.gguf.supported import check_early
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.next_command import next_command


def check(config: Config, run: Run) -> None:
    """Checks what the config asks for, and that the base's files are those of the training.

    A config that names another base trains anew, as after any other change. Other files under the same name are most
    likely an accident, and training takes hours.

    Raises:
        UserError: a format that cannot be written; or the base changed since training.
    """
    check_early(config)
    manifest = run.manifest("adapter")
    if manifest is None or former_base(run.root) != config.model.base:
        return
    then, now = manifest["key"].get("base") or {}, identity.identity(config.model)
    for name, before, after in _changes(then, now):
        name = name or Path(config.model.base).name
        what = f"the base changed since training: {name} has the hash {after[:16]}, at training it had {before[:16]}"
        fix = f"put the file back; or train on the base as it is now with `{next_command('train')}`"
        raise UserError(what, config.model.base, fix)


def _changes(then: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """File, old and new hash of what differs between two results of `identity`; the name of a .gguf file is empty."""
    for part in ("weights", "settings"):
        before, after = then.get(part), now.get(part)
        if isinstance(before, str) and isinstance(after, str) and before != after:
            yield "", before, after
        elif isinstance(before, dict) and isinstance(after, dict):
            for name in before:
                if before[name] != after.get(name):
                    yield name, before[name], after.get(name, "none: it is missing")
