"""Adapters of the store on a base: only those that are what was put in, and only on the base they were trained on."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config, Prompt
from pipeline.model import adapter as adapters
from pipeline.model.adapter import WEIGHTS
from pipeline.model.base import Base
from pipeline.model.fingerprint import fingerprint
from pipeline.model.load import add_tokens, load_base
from pipeline.model.methods.through_peft import put_onto
from pipeline.prompt.encode import Encoder
from pipeline.prompt.stage import encoder_of
from pipeline.prompt.template import Template
from pipeline.run.errors import UserError
from pipeline.run.files import sha256_file, write_json
from pipeline.store.folder import RECORD, Store
from pipeline.store.untrusted import CONFIG, inspect

FORM = ("id", "prompt_input", "prompt_no_input", "answer_prefix", "end")
RULES = ("bos", "join")  # of `prompt`, what shapes the ids that a model sees


def verified(store: Store, name: str, base: str, tokenizer: str) -> dict[str, Any]:
    """The record of a stored adapter, after comparing its files with it and it with a base and its tokenizer.

    Args:
        base: hash of the base (`fingerprint`). tokenizer: hash of its tokenizer, new tokens included.

    Raises:
        UserError: as `Store.record` and `inspect`; other files than were put in, another base, another tokenizer.
    """
    record, folder = store.record(name), store.folder(name)
    inspect(folder)
    for file in (WEIGHTS, CONFIG):
        if record["files"].get(file) != sha256_file(folder / file):
            what = f"{file} of the adapter {name} is not the file that was put into the store"
            raise UserError(what, str(folder), "put it in again: make keep ADAPTER=... REPLACE=yes CONFIG=...")
    if record["base"]["hash"] != base:
        trained, now = record["base"]["hash"][:12], base[:12]
        what = f"the adapter {name} was trained on another base: {record['base']['name']} ({trained}), this is {now}"
        raise UserError(what, str(folder), "name its base with CONFIG=... or model.base")
    if record["tokenizer"] != tokenizer:
        what = f"the adapter {name} was trained with tokenizer {record['tokenizer']}, this is {tokenizer}"
        raise UserError(what, str(folder), "name its tokenizer and its model.add_tokens with CONFIG=...")
    return record


def open_stored(config: Config, base: Base, store: Store, name: str) -> tuple[Any, Encoder]:
    """The config's base with a stored adapter on it, frozen, and the encoder of both, with the adapter's own rules.

    Raises:
        UserError: as `verified` and `encoder_as_recorded`; the config names another template than the adapter was
            trained with.
    """
    encoder = encoder_of(config, base.tokenizer)
    record = verified(store, name, fingerprint(config, base), encoder.tokenizer.hash)
    trained, now = record["template"]["hash"], encoder.template.hash
    if trained != now:
        what = f"the adapter {name} was trained with template {trained} ({record['template']['id']}), "
        fix = f"prompt.template={record['template']['id']}, or the config that it was trained with"
        raise UserError(what + f"the config names {now} ({encoder.template.id})", "prompt.template", fix)
    encoder = encoder_as_recorded(encoder, record, name)
    model = load_base(config, base)
    add_tokens(model, encoder.tokenizer.size)
    return adapters.load(model, store.folder(name)), encoder


def encoder_as_recorded(own: Encoder, record: dict[str, Any], name: str) -> Encoder:
    """In the template and with the rules (`bos`, `join`) that an adapter was trained with, which its record holds.

    What rows are read with (the cutoff, which tokens carry loss) stays that of `own`: it is no part of the adapter's
    form, and losses of two adapters on the same rows must be of the same tokens.

    Raises:
        UserError: the record does not hold them.
    """
    try:
        template = Template(**{key: str(record["template"][key]) for key in FORM})
        rules = {key: record["prompt"][key] for key in RULES}
        encoder = Encoder(template, own.tokenizer, Prompt(**{**own.prompt_config.model_dump(), **rules}))
    except (KeyError, TypeError, ValueError):
        encoder = None
    if encoder is None or (encoder.template.hash, encoder.end_id) != (record["template"]["hash"], record["end_id"]):
        fix = "put the adapter in again: make keep ADAPTER=... REPLACE=yes CONFIG=..."
        raise UserError(f"the record of the adapter {name} is damaged: its template is not whole", name, fix)
    return encoder


def side_by_side(model: Any, store: Store, names: list[str]) -> Any:
    """Puts adapters that were `verified` onto one base, side by side, frozen; the i-th is called `a<i>` inside.

    Names of their own, because peft's are keys of a ModuleDict, where `train` or `half` would clash with methods.

    Raises:
        UserError: an adapter does not fit the base.
    """
    for i, name in enumerate(names):
        model = put_onto(model, store.folder(name), f"a{i}", f"the adapter {name}")
    return model


def write_record(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Writes, and returns, the record of an adapter whose files lie in `folder`: `values`, their hashes, the time."""
    files = {name: sha256_file(folder / name) for name in (WEIGHTS, CONFIG)}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = {"version": 1, **values, "files": files, "kept": now}
    write_json(folder / RECORD, record)
    return record
