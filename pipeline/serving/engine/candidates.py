"""What can be served: the base, the run's export, stored adapters; read from their records, before any weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.adapter_name import BASE
from pipeline.config.schema import Config
from pipeline.model.exported import export_dtype, export_encoder, export_kind
from pipeline.model.precision import dtype_name
from pipeline.model.run_base import RunBase
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.run.errors import UserError
from pipeline.run.files import read_json
from pipeline.run.folder import Run
from pipeline.run.nearest import nearest
from pipeline.run.next_command import next_command
from pipeline.run.terminal import quoted
from pipeline.serving.engine.decoder import NotServable
from pipeline.serving.engine.request import Kind
from pipeline.serving.mixed import mixing_problem
from pipeline.store.folder import Store
from pipeline.store.load import encoder_of_record, verified_record
from pipeline.store.untrusted import inspect

UNFINISHED = "the export is marked unfinished: its answers may not end by themselves"


@dataclass(frozen=True)
class Candidate:
    """A model that can be served.

    Attributes:
        adapter: folder of the adapter that goes on the base; None for the base alone or for merged weights.
        merged: folder of a model with its weights; None for one that runs on the base.
        is_mixable: whether the adapter shares batches with others.
    """

    name: str
    kind: Kind
    encoder: AnyEncoder
    adapter: Path | None = None
    merged: Path | None = None
    is_mixable: bool = False
    note: str = ""

    @property
    def end_ids(self) -> frozenset[int]:
        """The end token of the training, and the tokenizer's own, after which no text follows."""
        ids = (self.encoder.end_id, self.encoder.tokenizer.eos_id)
        return frozenset(id for id in ids if id is not None)


def wanted_names(config: Config, run: Run, store: Store) -> list[str]:
    """Names of the models to serve: `serve.models`, or everything that there is.

    Raises:
        UserError: a name that there is not.
    """
    has_export = (run.folder("export") / "suri.json").is_file()
    known = list(dict.fromkeys([BASE, *([config.name] if has_export else []), *store.names()]))
    for name in config.serve.models:
        if name in known:
            continue
        if name == config.name:
            raise UserError("the run has no export", str(run.folder("export")), f"`{next_command('export')}`")
        fix = nearest(name, known, f"there are {', '.join(known)}")
        raise UserError(f"no model is called {quoted(name)}", "serve.models", fix)
    return list(dict.fromkeys(config.serve.models)) or known


def exported(config: Config, run: Run, base: Callable[[], RunBase], with_base: bool) -> Candidate:
    """The run's export.

    A merged export of a plain LoRA is served as its adapter on the base where the base is in memory anyway: the export
    compared the two when it was written, and the weights are in memory once.

    Args:
        with_base: whether the base is served too.

    Raises:
        UserError: as `export_encoder`. NotServable: the engine cannot run it.
    """
    folder = run.folder("export")
    encoder, record = export_encoder(config, run)
    note = UNFINISHED if record.get("unfinished") else ""
    kind = export_kind(folder)
    if kind == "nothing":
        if config.adapter.shots:
            raise NotServable(f"its answers need {config.adapter.shots} training rows in front of each question")
        return Candidate(config.name, "export", encoder, note=note)
    if kind == "adapter":
        return Candidate(config.name, "export", encoder, adapter=folder, note=note)
    if with_base and (adapter := _merged_adapter(config, run, record, base())):
        return Candidate(config.name, "export", encoder, adapter=adapter, is_mixable=True, note=note)
    return Candidate(config.name, "export", encoder, merged=folder, note=note)


def _merged_adapter(config: Config, run: Run, record: dict[str, Any], base: RunBase) -> Path | None:
    """The folder of the plain LoRA that was merged into the export, if it is still the one, on this base, in this type.

    Raises:
        UserError: files of the adapter are not those of the training.
    """
    folder, manifest = run.folder("adapter"), run.manifest("export") or {}
    settings = read_json(folder / "adapter_config.json")
    is_same = (
        isinstance(settings, dict) and not mixing_problem(settings, config.adapter.method)
        and isinstance(manifest.get("key"), dict) and manifest["key"].get("adapter") == run.result("adapter")
        and record.get("base_hash") == base.fingerprint()
        and config.model.quantize == "none" and export_dtype(config.export, config.model) == dtype_name(config.model)
        # PiSSA and OLoRA subtract their start from the base's weights.
        and settings.get("init_lora_weights") in (True, False, "gaussian", "orthogonal")
    )  # fmt: skip
    if not is_same:
        return None
    run.check("adapter")
    return folder


def stored(base: RunBase, store: Store, name: str) -> Candidate:
    """An adapter of the store.

    Raises:
        UserError: as `verified_record` and `encoder_of_record`.
    """
    own = base.encoder
    record = verified_record(store, name, base.fingerprint(), own.tokenizer.hash)
    folder = store.folder(name)
    is_mixable = not mixing_problem(inspect(folder), record["method"])
    return Candidate(name, "adapter", encoder_of_record(own, record, name), folder, is_mixable=is_mixable)
