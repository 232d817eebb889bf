"""Talk to an exported checkpoint in the terminal, in the form in which it was trained."""

from __future__ import annotations

import sys
from typing import Any

import torch
from transformers import AutoTokenizer, TextStreamer

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.model.load import DTYPES, dtype_name, load_folder
from pipeline.progress import say
from pipeline.prompt import template as templates
from pipeline.run import Run

HELP = "Each question stands alone. /input TEXT gives the next one something to work on, /quit or Ctrl-D ends."


def chat(config: Config, run: Run) -> None:
    """Reads questions from standard input until it ends; answers stream as they are made.

    Raises:
        UserError: the checkpoint was trained with another template than the config names.
    """
    folder = run.folder("export")
    made = read_json(folder / "suri.json")
    if not isinstance(made, dict):
        raise UserError("no suri.json beside the checkpoint: it was not exported here", str(folder), "make export")
    wanted = templates.load(config.prompt.template).hash
    if made["template"]["hash"] != wanted:
        raise UserError(f"the checkpoint was trained with template {made['template']['hash']}, the config names {wanted}",
                        str(folder), "put the template back, or train again")  # fmt: skip
    say(f"chat: loading {folder}")
    model = load_folder(folder, DTYPES[dtype_name(config.model)])
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    say(HELP)
    _talk(config, model, tokenizer, made["end_id"])


def _talk(config: Config, model: Any, tokenizer: Any, end_id: int) -> None:
    given = ""
    asking = "\n> " if sys.stdin.isatty() else ""
    while True:
        try:
            question = input(asking).strip()
        except EOFError:
            print()
            return
        if question == "/quit":
            return
        if question == "/help":
            say(HELP)
        elif question.startswith("/input"):
            given = question.removeprefix("/input").strip()
        elif question:
            message = {"role": "user", "content": question, "input": given}
            stopped = _reply(config, model, tokenizer, message, end_id)
            given = ""
            if not stopped:
                say(f"[cut off after {config.chat.max_new_tokens} tokens; chat.max_new_tokens allows more]")


@torch.inference_mode()
def _reply(config: Config, model: Any, tokenizer: Any, message: dict[str, str], end_id: int) -> bool:
    """Streams one answer; returns whether the model ended it itself. Ctrl-C ends the answer, not the chat."""
    inputs = tokenizer.apply_chat_template([message], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = inputs["input_ids"].to(model.device)
    heat = config.chat.temperature
    choice = (
        {"do_sample": True, "temperature": heat}
        if heat
        else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    )
    try:
        made = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=config.chat.max_new_tokens,
            eos_token_id=end_id, pad_token_id=end_id, streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True), **choice,
        )  # fmt: skip
    except KeyboardInterrupt:
        print()
        return True
    return int(made[0, -1]) == end_id
