"""Chat with an exported checkpoint, or with a stored adapter on its base, using the template of the training."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TextStreamer

from pipeline.config.schema import Chat, Config
from pipeline.dataset.example import Example
from pipeline.evaluation.shots import Shots, shots_from
from pipeline.model import hf_tokenizer
from pipeline.model.base import Base, resolve
from pipeline.model.exported import export_dtype, exported_model
from pipeline.model.generate import answering, prefix_length
from pipeline.model.load import context_length
from pipeline.model.run_base import RunBase
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.chat_encode import ChatEncoder
from pipeline.prompt.stage import encoder_of
from pipeline.run import encoding
from pipeline.run.errors import UserError
from pipeline.run.files import read_json
from pipeline.run.folder import Run
from pipeline.run.interrupt import answering as answering_signals
from pipeline.run.next_command import next_command
from pipeline.run.progress import say, working
from pipeline.run.terminal import safe
from pipeline.store.folder import Store
from pipeline.store.load import open_stored

HELP = """Each question is answered on its own: the model does not see earlier ones.
  /input TEXT   text for the next question to work on
  /help         this help
  /quit         ends the chat, as Ctrl-D does; Ctrl-C stops an answer"""
COMMANDS = ("/input", "/help", "/quit")
TALK = """The model sees the whole conversation.
  /system TEXT  begins a new conversation with this system message; without TEXT, with none
  /reset        begins a new conversation with the same system message
  /help         this help
  /quit         ends the chat, as Ctrl-D does; Ctrl-C stops an answer"""
TALK_COMMANDS = ("/system", "/reset", "/help", "/quit")


def chat_with_adapter(config: Config, base: Base, store: Store) -> None:
    """As `chat`, with the base and the stored adapter `chat.adapter`; needs no export.

    Raises:
        UserError: no such adapter, or one of another base, tokenizer or template.
    """
    name = config.chat.adapter
    with working(f"chat: loading the adapter {name} and its base"):
        model, encoder = open_stored(RunBase.of(config, base), store, name)
    session = ChatSession(model, encoder, hf_tokenizer.build(encoder, None), config.chat)
    with answering(model):  # without the generation settings in the base's folder
        _read_questions(session)


def chat(config: Config, run: Run) -> None:
    """Reads questions from standard input until it ends, and streams the answers.

    Raises:
        UserError: there is no export, it was trained with another template than the config's, or a line of a file on
            standard input is not UTF-8 (at a terminal this is a message, and the chat continues).
    """
    folder = run.folder("export")
    record = read_json(folder / "suri.json")
    if not isinstance(record, dict):
        fix = f"`{next_command('export')}`"
        raise UserError("no suri.json in the folder: it was not exported here", str(folder), fix)
    # tokenizer.model does not contain the new tokens, a saved tokenizer.json does.
    added = () if not (folder / "tokenizer.model").is_file() else config.model.add_tokens
    encoder = encoder_of(config.prompt, folder, added)
    template, trained = encoder.template, record.get("template", {}).get("hash")
    if trained != template.hash:
        what = f"the checkpoint was trained with the template {trained}, the config names {template.hash}"
        raise UserError(what, str(folder), "put the template back, or train again")
    if record.get("unfinished"):
        say("chat: this export is marked unfinished: its answers may not end by themselves")
    with working(f"chat: loading {folder}"):
        dtype = export_dtype(config.export, config.model)
        model = exported_model(folder, dtype, lambda: RunBase.of(config, resolve(config.model)))
    encoder.end_id = record.get("end_id", encoder.end_id)
    shots = None
    if record.get("holds") == "nothing":
        limit = context_length(model.config)
        room, count = config.chat.max_new_tokens, config.adapter.shots
        shots = shots_from(run.folder("dataset"), encoder, config.train.seed, limit, room, count)
    session = ChatSession(model, encoder, hf_tokenizer.load(folder), config.chat, shots)
    _read_questions(session)


class _Streamer(TextStreamer):
    """Prints an answer while it is generated, with control characters as escapes."""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        super().on_finalized_text(safe(text), stream_end)


@dataclass
class ChatSession:
    """A model that answers questions.

    Attributes:
        encoder: encodes prompts as in training.
        tokenizer: of transformers, decodes the streamed answer.
        shots: training rows in front of each question.
        system: system message of the conversation. turns: its messages so far, user and assistant in turn; only with a
            chat template.
    """

    model: Any
    encoder: AnyEncoder
    tokenizer: Any
    settings: Chat
    shots: Shots | None = None
    system: str = ""
    turns: list[dict[str, str]] = field(default_factory=list)

    @property
    def remembers(self) -> bool:
        """Whether the model sees earlier turns: with a chat template."""
        return isinstance(self.encoder, ChatEncoder)

    def _prompt(self, question: str, given: str) -> list[int]:
        if isinstance(self.encoder, ChatEncoder) and not self.shots:
            system = [{"role": "system", "content": self.system}] if self.system else []
            return self.encoder.prompt_of([*system, *self.turns, {"role": "user", "content": question}])
        example = Example.of(question, given, "", source="chat", system=self.system)
        return self.shots.prompt(example) if self.shots else self.encoder.prompt_for(example)

    @torch.inference_mode()
    def answer(self, question: str, given: str) -> str:
        """Streams one answer; returns why it ended early, empty when it ended with the end token.

        Ctrl-C ends the answer, not the chat.

        Args:
            given: the row's `input`.
        """
        settings, end = self.settings, self.encoder.end_id
        try:
            prompt = self._prompt(question, given)
        except UserError as error:
            return error.what
        longest = context_length(self.model.config) or sys.maxsize
        longest -= prefix_length(self.model)
        room = min(settings.max_new_tokens, longest - len(prompt))
        if room < 1:
            more = "; /reset begins a new conversation" if self.turns else ""
            return f"{len(prompt):,} tokens are too long for this model: it sees {longest:,}, its answer included{more}"
        ids = torch.tensor([prompt], device=self.model.device)
        sampling = {"do_sample": True, "temperature": settings.temperature} if settings.temperature else {}
        streamer = _Streamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        try:
            output = self.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=room, eos_token_id=end,
                pad_token_id=end, streamer=streamer, **sampling,
            )  # fmt: skip
        except KeyboardInterrupt:
            print()
            return "stopped"
        stopped = int(output[0, -1]) == end
        if self.remembers:
            answer = self.encoder.tokenizer.decode(output[0, len(prompt) : -1 if stopped else None].tolist())
            self.turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        if stopped:
            return ""
        is_setting = room == settings.max_new_tokens
        more = "raise chat.max_new_tokens for more" if is_setting else "the model's context ends here"
        return f"cut off after {room} tokens; {more}"


def _read_questions(session: ChatSession) -> None:
    prompt = ""
    if sys.stdin.isatty():
        say(TALK if session.remembers else HELP)
        prompt = "\n> "
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (gives `input` a line editor and a history)
    with answering_signals(None):
        _ask_and_answer(session, prompt)


def _ask_and_answer(session: ChatSession, prompt: str) -> None:
    given = ""
    piped = None if prompt else encoding.lines(sys.stdin)
    while True:
        try:
            question = (input(prompt) if piped is None else next(piped)).strip()
        except (EOFError, StopIteration, KeyboardInterrupt):
            print()
            return
        except UnicodeDecodeError as error:
            say(f"[{encoding.not_utf8(error.object)}: set the terminal to UTF-8]")
            continue
        command, _, rest = question.partition(" ")
        if command == "/quit":
            return
        if command == "/help":
            say(TALK if session.remembers else HELP)
        elif session.remembers and command in ("/system", "/reset"):
            session.turns.clear()
            session.system = rest.strip() if command == "/system" else session.system
            say("[a new conversation]")
        elif command == "/input" and not session.remembers:
            given = rest.strip()
            say(f"[{len(given)} characters for the next question]" if given else "[no input]")
        elif command.startswith("/") and command[1:].isalpha() and not rest:
            known = TALK_COMMANDS if session.remembers else COMMANDS
            say(f"[{command} is not a command; there are {', '.join(known)}]")
        elif question:
            reason = session.answer(question, given)
            given = ""
            if reason:
                say(f"[{reason}]")
