"""Chat with an exported checkpoint, with a stored adapter, or with the base, using the template of the training."""

from __future__ import annotations

import sys

from pipeline.config.schema import Config
from pipeline.model.base import Base
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.interrupt import answering
from pipeline.run.progress import say
from pipeline.serving.terminal import commands
from pipeline.serving.terminal.commands import Talk
from pipeline.serving.terminal.history import History
from pipeline.serving.terminal.models import EXPORT, ChatModels
from pipeline.serving.terminal.reader import PipeReader, Reader, TerminalReader
from pipeline.serving.terminal.screen import tell, tell_error
from pipeline.serving.terminal.session import ChatSession
from pipeline.store.folder import Store


def chat_with_adapter(config: Config, run: Run, base: Base, store: Store) -> None:
    """As `chat`, beginning with the base and the stored adapter `chat.adapter`; needs no export.

    Raises:
        UserError: no such adapter, or one of another base or tokenizer.
    """
    _converse(ChatModels(config, store, run, base), config.chat.adapter)


def chat(config: Config, run: Run) -> None:
    """Reads questions and commands from standard input until it ends, and streams the answers.

    Raises:
        UserError: there is no export, it was trained with another template than the config's, or a line of a file on
            standard input is not UTF-8 (at a terminal this is a message, and the chat continues).
    """
    _converse(ChatModels(config, Store.here(), run), EXPORT)


def _converse(models: ChatModels, name: str) -> None:
    talker = models.open(name)
    if talker.is_unfinished:
        say("chat: this export is marked unfinished: its answers may not end by themselves")
    talk = Talk(ChatSession(talker, models.config.chat), models)
    with answering(None):
        read_entries(talk)


def read_entries(talk: Talk) -> None:
    """Answers questions and runs commands until standard input ends."""
    reader = _reader(talk)
    if reader.is_terminal:
        tell(commands.help_text(talk.session), hanging=4)
    while talk.is_open:
        try:
            if not _answer_next(talk, reader):
                return
        except KeyboardInterrupt:  # at the prompt
            print()
            if not reader.is_terminal:
                return
            tell("[Ctrl-D or /quit ends the chat]")


def _reader(talk: Talk) -> Reader:
    if sys.stdin.isatty():
        return TerminalReader(History.here(), lambda line: commands.completions(talk, line))
    return PipeReader()


def _answer_next(talk: Talk, reader: Reader) -> bool:
    """Reads an entry and answers it; returns False at the end of input.

    Raises:
        UserError: a piped line is not UTF-8 text.
    """
    try:
        entry = reader.read()
    except UserError as error:
        if not reader.is_terminal:
            raise
        tell_error(error)
        return True
    if entry is None:
        print()
        return False
    try:
        if entry and not commands.run(talk, entry):
            talk.ask(entry)
    except UserError as error:
        tell_error(error)
    except KeyboardInterrupt:  # in a command, or before the answer has begun
        print()
        tell("[stopped]")
    return True
