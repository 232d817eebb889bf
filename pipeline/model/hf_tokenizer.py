"""The tokenizer for stock transformers, with the same ids as in training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pipeline.dataset.example import Example
from pipeline.prompt import tokenizer_files
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.chat_encode import ChatEncoder
from pipeline.prompt.encode import Encoder
from pipeline.run.errors import UserError, one_line
from pipeline.run.files import read_json, write_json


def build(encoder: AnyEncoder, max_length: int | None) -> Any:
    """A transformers tokenizer with the training template as chat template, and training's end token."""
    own = encoder.tokenizer
    # Not AutoTokenizer: some classes build a new tokenizer, while training uses tokenizer.json unchanged.
    tokenizer = _llama(encoder) if own.kind == "sentencepiece" else _read(PreTrainedTokenizerFast, own.folder)
    if own.added:
        tokenizer.add_special_tokens({"additional_special_tokens": list(own.added)})
    end = own.token(encoder.end_id)
    is_chat = isinstance(encoder, ChatEncoder)
    if not (isinstance(encoder, ChatEncoder) and encoder.writes_eos):
        tokenizer.eos_token = end
    if encoder.bos_id is not None:
        tokenizer.bos_token = own.token(encoder.bos_id)
    if own.kind == "tokenizers" and not is_chat and own.adds_bos != (encoder.bos_id == own.bos_id):
        tokenizer.add_bos_token = encoder.bos_id is not None  # prompt.bos takes precedence
    if "[PAD]" in own.added:
        tokenizer.pad_token = "[PAD]"
    elif tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or end
    tokenizer.padding_side = "left"  # for generation in batches
    if max_length:
        tokenizer.model_max_length = max_length
    if isinstance(encoder, ChatEncoder):
        tokenizer.chat_template = encoder.template.text
    else:
        _set_chat_template(tokenizer, encoder, end)
    return tokenizer


def load(folder: Path) -> Any:
    """The tokenizer of a folder, loaded by stock transformers.

    Raises:
        UserError: transformers cannot load it.
    """
    return _read(AutoTokenizer, folder)


def _read(kind: Any, folder: Path) -> Any:
    tokenizer_files.check(folder)
    try:
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # each tokenizer's class raises kinds of its own
        said = one_line(error)
        raise UserError(f"transformers cannot load the tokenizer: {said}", str(folder), tokenizer_files.FIX) from None


def _set_chat_template(tokenizer: Any, encoder: Encoder, end: str) -> None:
    """Sets the training template in the spelling that gives training's ids.

    sentencepiece puts a space before a text; LLaMA's fast tokenizer does not after a special token, so there the
    template contains the space.
    """
    if encoder.bos_id is None:
        tokenizer.chat_template = encoder.template.jinja("", end)
        return
    probe = [{"role": "user", "content": "Say hello."}]
    for space in ("", " "):
        tokenizer.chat_template = encoder.template.jinja(encoder.tokenizer.token(encoder.bos_id) + space, end)
        given = tokenizer.apply_chat_template(probe, add_generation_prompt=True, return_dict=False)
        if given == encoder.prompt("Say hello."):
            return


def save(tokenizer: Any, encoder: AnyEncoder, folder: Path) -> None:
    """Writes the tokenizer, with tokenizer.model where there is one, since some programs read that file."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = read_json(path)
    if settings.get("tokenizer_class") == "TokenizersBackend":  # transformers 5's new name, unknown to 4 and to vLLM's
        write_json(path, {**settings, "tokenizer_class": "PreTrainedTokenizerFast"})
    if encoder.tokenizer.kind == "sentencepiece":
        shutil.copyfile(encoder.tokenizer.folder / "tokenizer.model", folder / "tokenizer.model")


def disagreement(tokenizer: Any, encoder: AnyEncoder, examples: Iterable[Example]) -> tuple[str, int]:
    """The first difference between a loaded tokenizer and training's, on prompts as text and by the chat template, or
    an empty text; and the number of prompts that were compared."""
    if isinstance(encoder, ChatEncoder):
        why, compared = _other_chat(tokenizer, encoder, examples)
    else:
        why, compared = _other_prompt(tokenizer, encoder, examples)
    if why:
        return why, compared
    keeps_eos = isinstance(encoder, ChatEncoder) and encoder.writes_eos
    if tokenizer.eos_token_id != encoder.end_id and not keeps_eos:
        return f"its end token is {tokenizer.eos_token_id}, training's is {encoder.end_id}", compared
    for token, id in encoder.tokenizer.added.items():
        if tokenizer.convert_tokens_to_ids(token) != id:
            return (
                f"the new token {token} has id {tokenizer.convert_tokens_to_ids(token)}, in training it had {id}",
                compared,
            )
    return "", compared


def _other_chat(tokenizer: Any, encoder: ChatEncoder, examples: Iterable[Example]) -> tuple[str, int]:
    """As `disagreement`, for conversations: whole ones, and up to their last answer."""
    compared = 0
    for example in examples:
        conversation = encoder.conversation(example)
        if encoder.text.pattern.search(json.dumps([conversation.messages, conversation.tools], ensure_ascii=False)):
            continue  # transformers encodes this spelling as the special token, training as text
        row = encoder.rows_of([conversation])[0]
        if row.problem:
            continue
        last = conversation.answers[-1]
        prompt = conversation.first(last)
        pairs = [(prompt, True, encoder.prompt_for(example))]
        if not row.cut and not row.lost_turns:
            pairs.append((conversation, False, row.ids))
        for part, is_open, wanted in pairs:
            given = tokenizer.apply_chat_template(
                part.messages, tools=list(part.tools) or None, tokenize=True, add_generation_prompt=is_open,
                return_dict=False,
            )  # fmt: skip
            if list(given) != wanted:
                about = f"the conversation {example.instruction[:60]!r}"
                return f"the chat template gives other ids than training for {about}", compared
        compared += 1
    return "", compared


def _other_prompt(tokenizer: Any, encoder: Encoder, examples: Iterable[Example]) -> tuple[str, int]:
    """As `disagreement`, for rows: their prompts, as text and by the chat template."""
    specials = list(encoder.tokenizer.special_ids.values())
    compared = 0
    for example in examples:
        instruction, more = example.instruction, example.input
        if any(token in instruction + more for token in specials):
            continue  # transformers encodes this spelling as the special token, training as text
        wanted, prompt = encoder.prompt(instruction, more), f"the prompt {instruction[:60]!r}"
        message = {"role": "user", "content": instruction, "input": more}
        given = tokenizer.apply_chat_template([message], tokenize=True, add_generation_prompt=True, return_dict=False)
        if list(given) != wanted:
            return f"the chat template gives other ids than training for {prompt}", compared
        if list(tokenizer(encoder.template.prompt(instruction, more)).input_ids) != wanted:
            return f"the tokenizer gives other ids than training for {prompt}", compared
        compared += 1
    return "", compared


def _llama(encoder: AnyEncoder) -> Any:
    """LLaMA's sentencepiece model as a fast tokenizer, with merges ranked by their scores.

    transformers' own conversion ranks them by id, which splits runs of spaces differently in 3 % of the Alpaca rows.
    """
    import sentencepiece
    from transformers import LlamaTokenizer
    from transformers.convert_slow_tokenizer import generate_merges

    spm = sentencepiece.SentencePieceProcessor(model_file=str(encoder.tokenizer.folder / "tokenizer.model"))
    pieces = [spm.id_to_piece(i) for i in range(spm.get_piece_size())]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = generate_merges(vocabulary, [(piece, spm.get_score(i)) for i, piece in enumerate(pieces)])
    return LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=encoder.bos_id is not None)
