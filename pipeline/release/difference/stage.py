"""`make diff` and `make recover`: an export without its base, for bases that may not be given away."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.config.method_rules import spec_of
from pipeline.config.schema import Config, Model
from pipeline.model.base import kind_of, resolve
from pipeline.release.difference.make import write_difference
from pipeline.release.difference.recover import recover
from pipeline.run.errors import UserError
from pipeline.run.files import readable_size
from pipeline.run.folder import Run
from pipeline.run.progress import say

FOLDER = "diff"


def check(config: Config) -> None:
    """Says before anything is trained that there can be no difference.

    Raises:
        UserError: the method has no merged weights, or the base is not on this machine.
    """
    if spec_of(config.adapter).export != "merged":
        what = f"the export of adapter.method={config.adapter.method} holds nothing of its base: it can be given away"
        raise UserError(what, "adapter.method", "make diff is for exports with merged weights")
    if kind_of(config.model) == "geometry":
        raise UserError("random weights are no base that others have", "model.base", "name a base")


def make_difference(config: Config, run: Run) -> None:
    """Writes `runs/NAME/diff` from a finished export, unless it is there already.

    Raises:
        UserError: as `write_difference`.
    """
    base = resolve(config.model)
    assert base.folder is not None  # by `check`
    key = {"version": 1, "export": run.content("export")}
    folder = run.folder(FOLDER)
    if run.is_current(FOLDER, key):
        say(f"diff: up to date ({folder})")
        return
    run.check("export")
    name = config.model.base if kind_of(config.model) == "hub" else Path(config.model.base).name
    with run.lock(), run.made_from([]).writing(FOLDER, key) as output:
        record = write_difference(base.folder, run.folder("export"), output.folder, name)
        count = sum(len(part["tensors"]) for part in record["weights"])
        output.counts = {"tensors": count, "files": len(record["weights"])}
    size = sum((folder / part["difference"]).stat().st_size for part in record["weights"])
    say(f"diff: {count} tensors, {readable_size(size)}, are in {folder}; who has {name} gets the model back with")
    say(f"  make recover BASE=... DIFF={folder} OUT=...")


def recover_model(base: str, difference: str, out: str) -> None:
    """Writes the model of a difference into `out`. base: a folder, a hub id or a .gguf file, as `model.base`.

    Raises:
        UserError: as `recover`; or a word is missing.
    """
    for name, value in (("BASE", base), ("DIFF", difference), ("OUT", out)):
        if not value:
            fix = "make recover BASE=llama-7b DIFF=runs/mine/diff OUT=mine"
            raise UserError(f"{name} is missing", "make recover", fix)
    if not os.path.isdir(difference):
        raise UserError("no such folder", difference, "name the folder that `make diff` wrote")
    folder = resolve(Model(base=base)).folder
    assert folder is not None
    names = recover(folder, Path(difference), Path(out))
    say(f"recover: {len(names)} files, each as it was exported, are in {out}")
