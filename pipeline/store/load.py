"""Loads stored adapters, after checking that their files are unchanged and that they belong to the base."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from pipeline.config.schema import Prompt
from pipeline.model import adapter as adapters
from pipeline.model.adapter import WEIGHTS
from pipeline.model.methods.through_peft import add_adapter
from pipeline.model.run_base import RunBase
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.chat_encode import ChatEncoder
from pipeline.prompt.chat_template import ChatTemplate
from pipeline.prompt.encode import Encoder
from pipeline.prompt.template import Template
from pipeline.run.errors import UserError
from pipeline.run.files import sha256_file, write_json
from pipeline.store.folder import RECORD, Store, put_in_again
from pipeline.store.untrusted import CONFIG, inspect

TEMPLATE_FIELDS = ("id", "prompt_input", "prompt_no_input", "answer_prefix", "end")
CHAT_FIELDS = ("id", "text", "loss")
PROMPT_RULES = ("bos", "join")  # keys of `prompt` that decide token ids


def verified_record(store: Store, name: str, base: str, tokenizer: str) -> dict[str, Any]:
    """The record of a stored adapter, after checking that files, base and tokenizer are those it names.

    Args:
        base: `fingerprint` of the base. tokenizer: hash of its tokenizer, new tokens included.

    Raises:
        UserError: as `Store.record` and `inspect`; changed files, another base, another tokenizer.
    """
    record, folder = store.record(name), store.folder(name)
    inspect(folder)
    for file in (WEIGHTS, CONFIG):
        if record["files"].get(file) != sha256_file(folder / file):
            what = f"{file} of the adapter {name} is not the file that was put into the store"
            raise UserError(what, str(folder), put_in_again(name))
    if record["base"]["hash"] != base:
        trained, now = record["base"]["hash"][:12], base[:12]
        what = f"the adapter {name} was trained on another base: {record['base']['name']} ({trained}), this is {now}"
        raise UserError(what, str(folder), "name its base with CONFIG=... or model.base")
    if record["tokenizer"] != tokenizer:
        what = f"the adapter {name} was trained with tokenizer {record['tokenizer']}, this is {tokenizer}"
        raise UserError(what, str(folder), "name its tokenizer and its model.add_tokens with CONFIG=...")
    return record


def open_stored(base: RunBase, store: Store, name: str) -> tuple[Any, AnyEncoder]:
    """A base with a stored adapter, frozen, and the encoder that the adapter was trained with.

    Raises:
        UserError: as `verified_record` and `encoder_of_record`; the base is prompted with another template.
    """
    encoder = base.encoder
    record = verified_record(store, name, base.fingerprint(), encoder.tokenizer.hash)
    trained, now = record["template"]["hash"], encoder.template.hash
    if trained != now:
        what = f"the adapter {name} was trained with template {trained} ({record['template']['id']}), "
        fix = f"prompt.template={record['template']['id']}, or the config that it was trained with"
        raise UserError(what + f"the config names {now} ({encoder.template.id})", "prompt.template", fix)
    encoder = encoder_of_record(encoder, record, name)
    return adapters.load(base.load(), store.folder(name)), encoder


def encoder_of_record(own: AnyEncoder, record: dict[str, Any], name: str) -> AnyEncoder:
    """The encoder with the template, `bos` and `join` that the adapter was trained with.

    The cutoff and the choice of labelled tokens stay those of `own`, so that losses of two adapters on the same rows
    are over the same tokens.

    Raises:
        UserError: the record lacks them.
    """
    encoder: AnyEncoder | None
    try:
        if "text" in record["template"]:
            fields = {key: str(record["template"][key]) for key in CHAT_FIELDS}
            encoder = ChatEncoder(ChatTemplate(**fields), own.tokenizer, own.prompt_config, f"the adapter {name}")
        else:
            template = Template(**{key: str(record["template"][key]) for key in TEMPLATE_FIELDS})
            rules = {key: record["prompt"][key] for key in PROMPT_RULES}
            encoder = Encoder(template, own.tokenizer, Prompt(**{**own.prompt_config.model_dump(), **rules}))
    except (KeyError, TypeError, ValueError):
        encoder = None
    if encoder is None or (encoder.template.hash, encoder.end_id) != (record["template"]["hash"], record["end_id"]):
        fix = put_in_again(name)
        raise UserError(f"the record of the adapter {name} is damaged: its template is not whole", name, fix)
    return encoder


def add_adapters(model: Any, store: Store, names: list[str]) -> Any:
    """Adds several adapters, checked by `verified_record`, to one base, frozen; peft's name of the i-th is `a<i>`.

    Not by their own names: peft's names are keys of a ModuleDict, where `train` or `half` would clash with methods.

    Raises:
        UserError: an adapter does not fit the base.
    """
    for i, name in enumerate(names):
        model = add_adapter(model, store.folder(name), f"a{i}", f"the adapter {name}")
    return model


def write_record(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Writes and returns the record of the adapter in `folder`: `values`, hashes of its files, the time."""
    files = {name: sha256_file(folder / name) for name in (WEIGHTS, CONFIG)}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = {"version": 1, **values, "files": files, "kept": now}
    write_json(folder / RECORD, record)
    return record
