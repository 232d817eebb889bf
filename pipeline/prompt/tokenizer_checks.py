"""Checks of the tokenizer and of every encoded row, before training.

They find what would otherwise show up as a bad model: no end token in the labels (the model never stops), padding that
hides the end token, two BOS, special tokens that come from the text of the data, ids beyond the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.chat_encode import ChatEncoder
from pipeline.prompt.encode import IGNORE, Encoder, Row
from pipeline.run.errors import UserError


def check_tokenizer(encoder: AnyEncoder, vocabulary: int | None, config_eos: Sequence[int]) -> list[str]:
    """Checks the tokenizer itself.

    Args:
        vocabulary: rows of the base's embedding; None if unknown.
        config_eos: end ids in the base's own files.

    Returns:
        Notes for the user: the special tokens of a row, and what is unusual or will be repaired.

    Raises:
        UserError: ids that the embedding does not have, or special tokens that plain text can produce.
    """
    tokenizer, notes = encoder.tokenizer, list(encoder.notes)
    where = str(tokenizer.folder)
    largest = tokenizer.size - len(tokenizer.added) - 1
    if vocabulary is not None and largest >= vocabulary:
        raise UserError(f"the tokenizer has ids up to {largest}, the base's embedding only {vocabulary} rows", where,
                        "use the tokenizer that belongs to this base")  # fmt: skip
    for name in ("bos", "eos", "pad", "unk"):
        id = getattr(tokenizer, f"{name}_id")
        if id is not None and not 0 <= id < tokenizer.size:
            raise UserError(
                f"{name} has id {id}, outside of the vocabulary of {tokenizer.size}",
                where,
                "correct tokenizer_config.json",
            )
    for id, token in tokenizer.special_ids.items():
        if id in tokenizer.encode([f"a {token} b"])[0]:
            raise UserError(
                f"plain text {token!r} turns into the special id {id}",
                where,
                "mark the token as special in tokenizer.json",
            )
    end = f"{tokenizer.token(encoder.end_id)} ({encoder.end_id})"
    start = "have no start token"
    if encoder.bos_id is not None:
        start = f"start with {tokenizer.token(encoder.bos_id)} ({encoder.bos_id})"
    what = "end with" if isinstance(encoder, Encoder) else "each answer ends with"
    notes.insert(0, f"rows {start} and {what} {end}")
    if tokenizer.pad_id is None:
        notes.append("padding never enters the loss: it is masked by length (the tokenizer has no padding token)")
    elif tokenizer.pad_id == encoder.end_id:
        notes.append("padding never enters the loss: it is masked by length (it has the id of the end token)")
    if encoder.bos_id is not None and encoder.bos_id == encoder.end_id:
        notes.append("start and end token are the same; only the one at the end of a row is trained as the end")
    if config_eos and encoder.end_id not in config_eos:
        notes.append(f"the base stops at id {', '.join(map(str, config_eos))}; the export stops at {end}, as trained")
    for token, id in tokenizer.added.items():
        notes.append(f"new token {token} (id {id}): its embedding is trained and saved")
    return notes


def check_rows(encoder: AnyEncoder, rows: Sequence[Row], first: int = 0) -> None:
    """Checks encoded rows: one BOS, one end token, and no special id in between except that of unknown letters.

    Args:
        first: number of the first row, for the message.

    Raises:
        UserError: naming the first row that breaks a rule.
    """
    if isinstance(encoder, ChatEncoder):
        _check_chat_rows(encoder, rows, first)
        return
    begin, end, unknown = encoder.bos_id, encoder.end_id, encoder.tokenizer.unk_id
    special = {i: t for i, t in encoder.tokenizer.special_ids.items() if i != unknown or i in (begin, end)}
    opening = 0 if begin is None else 1
    for number, row in enumerate(rows, first + 1):
        ids = row.ids
        inner = ids[opening:] if row.cut else ids[opening:-1]
        if (begin is not None and ids[0] != begin) or (not row.cut and ids[-1] != end):
            raise UserError(
                f"row {number} does not start with BOS {begin} and end with {end}",
                "tokens",
                "this is a bug in Suri: please report it with that row",
            )
        if not special.keys().isdisjoint(inner):
            bad = next(i for i in inner if i in special)
            raise UserError(
                f"plain text of row {number} gave the special id {bad} ({special[bad]})",
                str(encoder.tokenizer.folder),
                "mark the token as special in tokenizer.json, or remove it from the data",
            )


def _check_chat_rows(encoder: ChatEncoder, rows: Sequence[Row], first: int) -> None:
    """Checks encoded conversations: a learnt answer is followed by the end token, and ids and labels agree.

    Raises:
        UserError: naming the first row that breaks a rule.
    """
    for number, row in enumerate(rows, first + 1):
        learnt = [n for n, label in enumerate(row.labels) if label != IGNORE]
        wrong = any(row.labels[n] != row.ids[n] for n in learnt)
        if learnt and not row.cut and encoder.template.loss != "all":
            wrong |= row.ids[learnt[-1]] != encoder.end_id
        if wrong:
            raise UserError(
                f"the last learnt answer of row {number} does not end with {encoder.form.end}",
                encoder.renderer.where,
                "take another template (prompt.template)",
            )
