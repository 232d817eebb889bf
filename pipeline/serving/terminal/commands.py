"""The commands of a chat: one table, from which the help is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.run.errors import UserError
from pipeline.run.nearest import closest
from pipeline.serving.terminal import saved, settings
from pipeline.serving.terminal.models import ChatModels
from pipeline.serving.terminal.screen import tell
from pipeline.serving.terminal.session import ChatSession

ALIKE = 0.6  # difflib's ratio from which a word is taken for a misspelt command


@dataclass
class Talk:
    """What commands work on.

    Attributes:
        given: the `input` of the next question. is_open: false after /quit. saved: the rows last saved in each file.
    """

    session: ChatSession
    models: ChatModels
    given: str = ""
    is_open: bool = True
    saved: dict[Path, list[dict[str, Any]]] = field(default_factory=dict)

    def ask(self, question: str) -> None:
        """Answers a question, and prints why the answer ended early."""
        given, self.given = self.given, ""
        _tell_end(self.session.answer(question, given))


@dataclass(frozen=True)
class Command:
    """words: what stands after the name, in the help. runs: takes it. unfit: why it has no use in a chat, or empty."""

    name: str
    words: str
    help: str
    runs: Callable[[Talk, str], None]
    unfit: Callable[[ChatSession], str] = lambda session: ""


def run(talk: Talk, entry: str) -> bool:
    """Runs the command of an entry; returns False if the entry is a question.

    A word of letters after `/` is a command. If it is none, it is taken for a misspelt one where it is alone or like
    one; otherwise the entry is a question.

    Raises:
        UserError: the command cannot do what it was told.
    """
    name, _, rest = entry.partition(" ")
    if "\n" in name or not (name.startswith("/") and name[1:].isalpha()):
        return False
    command = next((c for c in COMMANDS if c.name == name.lower()), None)
    known = [c.name for c in COMMANDS if not c.unfit(talk.session)]
    if command is not None:
        if why := command.unfit(talk.session):
            raise UserError(why)
        command.runs(talk, rest.strip())
        return True
    alike = closest(name.lower(), known, alike=ALIKE)
    if rest and not alike:
        return False
    raise UserError(
        f"{name[:40]} is not a command", "", f"did you mean {alike[0]}?" if alike else f"there are {', '.join(known)}"
    )


def help_text(session: ChatSession) -> str:
    """All commands of this chat, in one screen."""
    first = (
        "The model sees the whole conversation." if session.remembers
        else "Each question is answered on its own: the model does not see earlier ones."
    )  # fmt: skip
    shown = [c for c in COMMANDS if not c.unfit(session)]
    wide = max(len(f"{c.name} {c.words}") for c in shown) + 2
    lines = [f"  {f'{c.name} {c.words}':{wide}}{c.help}" for c in shown]
    last = "A line that ends with \\ goes on in the next one. Ctrl-C stops an answer, Ctrl-D ends the chat."
    return "\n".join([first, *lines, last])


def completions(talk: Talk, line: str) -> list[str]:
    """Words that may stand at the end of a line."""
    name, space, rest = line.partition(" ")
    if not space:
        return [c.name for c in COMMANDS if line.startswith("/") and c.name.startswith(line)]
    choices = {"/adapter": talk.models.names, "/set": lambda: list(settings.KEYS), "/think": lambda: ["on", "off"]}
    return [word for word in choices.get(name, list)() if word.startswith(rest)]


def _tell_end(reason: str) -> None:
    if reason:
        tell(f"[{reason}]")


def _system(talk: Talk, text: str) -> None:
    talk.session.system = text
    talk.session.reset()
    tell("[a new conversation]" if text else "[a new conversation, without a system message]")


def _reset(talk: Talk, text: str) -> None:
    talk.session.reset()
    tell("[a new conversation]")


def _input(talk: Talk, text: str) -> None:
    talk.given = text
    tell(f"[{len(text)} characters for the next question]" if text else "[no input]")


def _regen(talk: Talk, text: str) -> None:
    session = talk.session
    if not session.exchanges:
        raise UserError("there is no answer yet")
    before = session.exchanges[-1].answer
    _tell_end(session.again())
    if session.settings.temperature == 0 and session.exchanges[-1].answer == before:
        tell("[with temperature 0 an answer is always the same; /set temperature 0.7 varies it]")


def _adapter(talk: Talk, name: str) -> None:
    session, models = talk.session, talk.models
    names, now = models.names(), session.talker.name
    if not name:
        tell(f"[{now} answers; /adapter NAME changes to one of: {', '.join(names)}]")
        return
    try:
        models.open(name)
    except UserError as error:
        raise UserError(f"{error.what}; {now} goes on", error.where, error.fix) from None
    finally:
        session.talker = models.current or session.talker
    tell(f"[{name} answers from now on{_about_conversation(session)}]")
    if session.talker.is_unfinished:
        tell("[it is marked unfinished: its answers may not end by themselves]")


def _about_conversation(session: ChatSession) -> str:
    if not session.exchanges:
        return ""
    more = ", and /reset begins a new conversation" if session.remembers else ""
    return f"; /regen asks it the last question{more}"


def _save(talk: Talk, name: str) -> None:
    if not name:
        raise UserError("a file is missing", "", "/save FILE")
    rows = saved.rows_of(talk.session)
    if not rows:
        raise UserError("there is nothing to save yet")
    path = saved.path_of(name)
    if talk.saved.get(path) == rows and path.exists():
        tell(f"[{path} has this conversation already]")
        return
    is_added = saved.save(rows, path)
    talk.saved[path] = rows
    count = len(talk.session.exchanges)
    answers = f"{count} answer{'' if count == 1 else 's'}"
    open_ends = sum(not e.ended for e in talk.session.exchanges)
    ends = f"; {open_ends} of them did not end by themselves" if open_ends else ""
    tell(f"[{answers} {'added to' if is_added else 'saved in'} {path}{ends}]")


def _set(talk: Talk, words: str) -> None:
    if words:
        talk.session.settings = settings.changed(talk.session.settings, words)
    tell(f"[{settings.shown(talk.session.settings)}]")


def _think(talk: Talk, word: str) -> None:
    if word.lower() not in ("", "on", "off"):
        raise UserError(f"not a choice: {word[:40]}", "", "/think on, or /think off")
    if word:
        talk.session.thinks = word.lower() == "on"
    tell(f"[thinking is {'on' if talk.session.thinks else 'off'}]")


def _help(talk: Talk, text: str) -> None:
    tell(help_text(talk.session), hanging=4)


def _quit(talk: Talk, text: str) -> None:
    talk.is_open = False


def _remembers_nothing(session: ChatSession) -> str:
    return "" if session.remembers else "/reset is for chat templates: here the model sees one question at a time"


def _has_turns(session: ChatSession) -> str:
    return (
        "/input is for templates of single questions: write the text below your question" if session.remembers else ""
    )


def _cannot_think(session: ChatSession) -> str:
    return "" if session.can_think else "/think is for chat templates with a thinking mode, and this one has none"


COMMANDS = (
    Command("/adapter", "NAME", "another model answers: base, export, or a stored adapter", _adapter),
    Command("/system", "TEXT", "new conversation with this system message, or none", _system),
    Command("/reset", "", "new conversation with the same system message", _reset, _remembers_nothing),
    Command("/input", "TEXT", "text for the next question to work on", _input, _has_turns),
    Command("/regen", "", "answers the last question again", _regen),
    Command("/set", "NAME VALUE", "temperature, top_p, top_k, repetition, max_new_tokens, seed", _set),
    Command("/think", "on|off", "whether the model writes its reasoning first", _think, _cannot_think),
    Command("/save", "FILE", "adds the conversation to a JSONL file", _save),
    Command("/help", "", "this help", _help),
    Command("/quit", "", "ends the chat", _quit),
)
