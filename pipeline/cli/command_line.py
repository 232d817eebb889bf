"""What a command is, and how its words on the command line are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.cli.extras import require
from pipeline.command import load_run
from pipeline.config.schema import Config
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.nearest import nearest, nearest_file
from pipeline.run.next_command import DEMO, program, started

SETTING = re.compile(r"[A-Za-z_][\w.-]*=")
HELP = ("-h", "--help")


@dataclass(frozen=True)
class Option:
    """`--name VALUE`, or a flag where `value` is empty."""

    name: str
    value: str
    about: str


@dataclass(frozen=True)
class Command:
    """One command of `suri`, of `make` and of `python -m scripts.NAME`.

    name: as typed; the verbs of `adapters` are commands with two words.
    group: where the help lists it. about: one line.
    run: does it.
    words: names of the words that come first. more: name of the further words, where there may be any.
    variables: those of make that hold the words of a command with a config.
    config: whether it takes a config file and settings. model: whether that config must name a base model. files:
        whether it reads the files that the config names. fetch: whether it reads the base, which is fetched where it
        is the demo's.
    keys: sections and keys of the config that it reads itself.
    makes_first: stages that it makes where they are missing.
    extra: the extra of the package that it needs with a config; empty = none.
    """

    name: str
    group: str
    about: str
    run: Callable[[Given], object]
    words: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    more: str = ""
    options: tuple[Option, ...] = ()
    config: bool = True
    model: bool = True
    files: bool = True
    fetch: bool = True
    keys: tuple[str, ...] = ()
    makes_first: tuple[str, ...] = ()
    extra: Callable[[Config], str] = lambda config: ""

    @property
    def usage(self) -> str:
        """Such as `suri keep NAME [CONFIG.yaml] [key=value ...]`."""
        parts = ["suri", self.name, *self.words]
        parts += [f"[--{o.name}{f' {o.value}' if o.value else ''}]" for o in self.options]
        parts += [f"{self.more} ..."] if self.more else []
        parts += ["[CONFIG.yaml]", "[key=value ...]"] if self.config else []
        return " ".join(parts)


@dataclass(frozen=True)
class Given:
    """The words of a command line. config: None where none was named. options: values by name; a flag's is `yes`."""

    command: Command
    words: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    config: str | None = None
    overrides: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    def load(self) -> tuple[Config, Run]:
        """The config, by default the demo's, and its run folder; fetches the demo's base where the config names it.

        Raises:
            UserError: the config is wrong, an extra that it needs is missing, or the base cannot be fetched.
        """
        command = self.command
        if self.config is None and not Path(DEMO).is_file():
            fix = f"name yours: suri {command.name} FILE.yaml"
            raise UserError("no config file is named, and that of the demo is not in this folder", DEMO, fix)
        variables = dict(zip(command.variables, self.words, strict=True))
        variables |= {"REPLACE": "yes"} if "replace" in self.options else {}
        variables |= {name.upper(): self.options[name] for name in ("gpus", "restarts") if name in self.options}
        started(command.name.split()[0], self.config or DEMO, self.overrides, **variables)
        config, run = load_run(self.config or DEMO, self.overrides, command.model, command.files, command.fetch)
        if extra := command.extra(config):
            require(extra, _place(command))
        return config, run


def read(command: Command, words: Sequence[str]) -> Given:
    """Sorts the words behind a command into its own words, config, settings and options.

    Raises:
        UserError: a word is missing, unknown or too many.
    """
    options: dict[str, str] = {}
    plain = list(_plain(command, words, options))
    count = len(command.words)
    if len(plain) < count:
        raise UserError(f"{command.words[len(plain)]} is missing", _place(command), f"usage: {command.usage}")
    own, rest = plain[:count], plain[count:]
    if command.more:
        return Given(command, tuple(own), tuple(rest), options=options)
    if not command.config:
        if rest:
            raise UserError(f"too many words: {rest[0]!r}", _place(command), f"usage: {command.usage}")
        return Given(command, tuple(own), options=options)
    configs = [options.pop("config")] if "config" in options else []
    settings = []
    for word in rest:
        if _is_config(word):
            configs.append(word)
        elif SETTING.match(word):
            settings.append(word)
        else:
            raise UserError(f"neither a config file nor key=value: {word!r}", _place(command), _advice(word))
    if len(configs) > 1:
        raise UserError(f"two config files: {configs[0]!r} and {configs[1]!r}", _place(command), "name one of them")
    return Given(command, tuple(own), (), configs[0] if configs else None, tuple(settings), options)


def asks_for_help(words: Sequence[str]) -> bool:
    before = words[: words.index("--")] if "--" in words else words
    return any(word in HELP for word in before)


def _plain(command: Command, words: Sequence[str], options: dict[str, str]) -> Iterator[str]:
    """The words that are no options; these go into `options`."""
    known = {o.name: o for o in command.options}
    if command.config:
        known["config"] = Option("config", "FILE", "")
    rest = iter(words)
    for word in rest:
        if word == "--":
            yield from rest
        elif not word.startswith("-") or word == "-":
            yield word
        else:
            name, equals, value = word.removeprefix("--").partition("=")
            if not word.startswith("--") or name not in known:
                raise UserError(f"no such option: {word!r}", _place(command), _other_option(command, name))
            if known[name].value and not equals:
                value = next(rest, "")
                if not value:
                    raise UserError(f"--{name} needs a value", _place(command), f"usage: {command.usage}")
            if equals and not known[name].value:
                raise UserError(f"--{name} takes no value", _place(command), f"usage: {command.usage}")
            options[name] = value if known[name].value else "yes"


def _place(command: Command) -> str:
    """The command as an error names it."""
    return f"{program()} {command.name}"


def _is_config(word: str) -> bool:
    return not SETTING.match(word) and (word.endswith((".yaml", ".yml")) or Path(word).is_file())


def _other_option(command: Command, name: str) -> str:
    """What was probably meant by an option that does not exist: another one, or a key of the config."""
    if command.config and (keys := _keys_called(name.lstrip("-").replace("-", "_"))):
        return f"settings are given without dashes: {keys[0]}=VALUE"
    return nearest(name, [o.name for o in command.options], f"usage: {command.usage}")


def _advice(word: str) -> str:
    if keys := _keys_called(word):
        return f"write {keys[0]}=VALUE, without spaces around ="
    return nearest_file(Path(word), "settings look like train.lr=1e-4, a config like configs/mine.yaml", "*.yaml")


def _keys_called(word: str) -> list[str]:
    """Keys of the config with this name, alone or with their section."""
    from pipeline.config.reference import tables
    from pipeline.config.values import SYNONYMS

    keys = [entry.key for table in tables() for entry in table.entries]
    alike = [key for key in keys if word in (key, key.rpartition(".")[2])]
    return alike or [SYNONYMS[word].split()[0]] if word in SYNONYMS else alike
