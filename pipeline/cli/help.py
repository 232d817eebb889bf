"""What `suri --help` and `suri COMMAND --help` print, at most 78 columns wide."""

from __future__ import annotations

import textwrap

from pipeline.cli.command_line import Command
from pipeline.cli.table import BY_NAME, COMMANDS, GROUPS

WIDTH = 78
LONGEST = 40  # letters of a default that are shown
TITLE = "Suri: data and a base model in, a model that follows instructions out."
NOTES = (
    "CONFIG.yaml is the file that describes a run; without it, configs/demo.yaml.",
    "key=value changes one value of it: suri train mine.yaml train.lr=1e-4",
    "suri COMMAND --help lists a command's options and the keys that it reads.",
    "docs/config.md explains every key. `make` has the same commands.",
)


def overview() -> str:
    """All commands by group."""
    lines = [TITLE, "", "usage: suri COMMAND [CONFIG.yaml] [key=value ...]", ""]
    for group, about in GROUPS.items():
        lines.append(f"{group}: {about}")
        lines += [f"  {c.name:<17} {c.about}" for c in COMMANDS if c.group == group]
        lines.append("")
    return "\n".join([*lines, *NOTES])


def of_command(command: Command) -> str:
    """A command's usage, options and keys."""
    lines = _wrapped(f"usage: {command.usage}", further="       ")
    about = command.about[0].upper() + command.about[1:]
    lines += ["", *_wrapped(about if about.endswith("?") else f"{about}.")]
    if command.makes_first:
        lines += _wrapped(f"Made first, where missing or stale: {', '.join(command.makes_first)}.")
    verbs = [c for c in COMMANDS if c.name.startswith(f"{command.name} ")]
    if verbs:
        lines += ["", "verbs", *(f"  {c.name.split()[1]:<12} {c.about}" for c in verbs)]
    lines += _options(command)
    if command.keys:
        lines += ["", "keys of the config that it reads, with their defaults", *_keys(command)]
    others = [f"suri {name} --help" for name in command.makes_first if name in BY_NAME]
    if others:
        lines += ["", *_wrapped(f"The stages made first read more: {', '.join(others)}.")]
    return "\n".join(lines)


def _options(command: Command) -> list[str]:
    options = [(f"--{o.name} {o.value}".rstrip(), o.about) for o in command.options]
    if command.config:
        options.append(("--config FILE", "the config, in place of CONFIG.yaml"))
    lines = []
    for name, about in options:
        lines += _wrapped(about, f"  {name:<16} ", " " * 19)
    return ["", "options", *lines] if lines else []


def _keys(command: Command) -> list[str]:
    """Two lines or more for each key: with its default and type, and what it is. A section begins with a space."""
    from pipeline.config.reference import entries

    lines: list[str] = []
    section = ""
    for entry in (entry for place in command.keys for entry in entries(place)):
        if section != (section := entry.key.rpartition(".")[0]):
            lines.append("")
        value = entry.default or ""
        value = value if len(value) <= LONGEST else value[: LONGEST - 4] + " ..."
        kind = entry.type + (", required" if entry.default is None else "")
        lines += _wrapped(f"{entry.key}={value}  ({kind})", "  ", "      ")
        lines += _wrapped(entry.summary, "      ", "      ")
    return lines


def _wrapped(text: str, first: str = "", further: str = "") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=further, break_on_hyphens=False, break_long_words=False
    )
