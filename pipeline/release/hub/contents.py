"""The files of an export that go to a hub: which, under which names, and that nothing in them is private.

WHAT             local                               in the repository
hf               export/*                            *
hf,adapter,gguf  export/*, export/adapter, .../gguf  *, adapter/*, gguf/*
adapter | gguf   export/adapter | export/gguf        *, with the texts of the licences
diff             diff/*                              *
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.release.licence_files import licence_files
from pipeline.run.errors import UserError
from pipeline.run.folder import Run, difference
from pipeline.run.next_command import next_command
from pipeline.run.terminal import quoted

FORMATS = ("hf", "adapter", "gguf", "diff")
SCANNED = ("", ".md", ".json", ".jinja", ".txt")  # endings of files that hold text
VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json")  # their pieces of words may look like anything
SECRETS = re.compile(
    r"hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{36}|AKIA[0-9A-Z]{16}|xox[abprs]-[0-9A-Za-z-]{20,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
SECRET_NAMES = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD)$")
SHORTEST_SECRET = 16  # characters of a variable's value that is looked for


@dataclass(frozen=True)
class File:
    """One file to send. target: its name in the repository. bytes, sha256: by the manifest, and compared with it."""

    path: Path
    target: str
    bytes: int
    sha256: str


def chosen(words: str) -> tuple[str, ...]:
    """The formats in a text such as `hf,gguf`; hf where it is empty.

    Raises:
        UserError: one is none of `FORMATS`, or they do not go into one repository.
    """
    names = tuple(dict.fromkeys(word.strip() for word in words.split(",") if word.strip())) or ("hf",)
    for name in names:
        if name not in FORMATS:
            raise UserError(f"no such format: {quoted(name)}", "WHAT", f"name some of {', '.join(FORMATS)}")
    if len(names) > 1 and ("diff" in names or "hf" not in names):
        what = f"{' and '.join(names)} do not go into one repository"
        raise UserError(what, "WHAT", "name hf with adapter or gguf, or one format alone")
    return names


def contents(run: Run, formats: Sequence[str], skipped: Sequence[str]) -> list[File]:
    """The files, each as its manifest says.

    Args:
        formats: from `chosen`. skipped: names in the repository that are not sent.

    Raises:
        UserError: a format was not exported, a file has changed since it was written, a skipped name is no file, or a
            file holds a path of this machine or what looks like a secret.
    """
    files = sorted(_files(run, formats), key=lambda file: file.target)
    names = [file.target for file in files]
    for name in skipped:
        if name not in names:
            raise UserError(f"there is no file {quoted(name)} to skip", "SKIP", f"the files are {', '.join(names)}")
    files = [file for file in files if file.target not in skipped]
    for file in files:
        if wrong := difference(file.path, {"bytes": file.bytes, "sha256": file.sha256}):
            what = f"{file.target} has changed since it was written: {wrong}"
            raise UserError(
                what, str(file.path), f"put the file back, or remove the folder and `{next_command('export')}`"
            )
    for file in files:
        _check_private(file, run)
    return files


def _files(run: Run, formats: Sequence[str]) -> Iterator[File]:
    if "diff" in formats:
        yield from _of_stage(run, "diff", "", "")
        return
    folder = run.folder("export")
    if formats == ("hf",) or len(formats) > 1:
        yield from _of_stage(run, "export", "", "")
    for name in formats:
        if name != "hf":
            yield from _of_stage(run, "export", f"{name}/", f"{name}/" if len(formats) > 1 else "")
    if len(formats) == 1 and formats != ("hf",):  # the terms go along with a part
        names = licence_files(folder)
        yield from (file for file in _of_stage(run, "export", "", "") if file.target in names)


def _of_stage(run: Run, stage: str, inside: str, under: str) -> Iterator[File]:
    """Files of a stage's manifest in one folder. inside: that folder, such as `gguf/`. under: where they go."""
    manifest = run.manifest(stage)
    if manifest is None:
        made = "diff" if stage == "diff" else "export"
        raise UserError(
            f"there is no finished {made} to send", str(run.folder(stage)), f"`{next_command(made)}` makes it"
        )
    found = False
    for name, entry in manifest["files"].items():
        rest = name.removeprefix(inside)
        if name.startswith(inside) and "/" not in rest:
            found = True
            yield File(run.folder(stage) / name, under + rest, entry["bytes"], entry["sha256"])
    if not found:
        wanted = inside.strip("/")
        fix = f"set export.formats to [hf, {wanted}] and `{next_command('export')}`"
        raise UserError(f"the export has no {wanted}", str(run.folder(stage) / wanted), fix)


def _check_private(file: File, run: Run) -> None:
    """Raises:
    UserError: the file holds a path of this machine, or what looks like a secret.
    """
    if file.path.suffix not in SCANNED or file.path.name in VOCABULARIES:
        return
    text = file.path.read_text(encoding="utf-8", errors="replace")
    fix = f"take it out of data or config and export again, or send all but this file: SKIP={file.target}"
    if at := _place(text, SECRETS) or _own_secret(text):
        raise UserError(f"{file.target} holds what looks like a secret ({at[1][:6]}...)", f"line {at[0]}", fix)
    folders = {str(path) for path in (Path.home(), Path.cwd(), run.root.resolve().parent)}
    either = "|".join(re.escape(folder) for folder in sorted(folders, key=len, reverse=True) if len(folder) > 3)
    if either and (at := _place(text, re.compile(rf"(?<![\w.~-])(?:{either})/[\w.-]+"))):
        raise UserError(f"{file.target} holds a path of this machine: {at[1]}", f"line {at[0]}", fix)


def _own_secret(text: str) -> tuple[int, str] | None:
    """The value of a variable such as HF_TOKEN or OPENAI_API_KEY, if it stands in the text."""
    for name, value in os.environ.items():
        if SECRET_NAMES.search(name) and len(value) >= SHORTEST_SECRET and value in text:
            return _place(text, re.compile(re.escape(value)))
    return None


def _place(text: str, pattern: re.Pattern[str]) -> tuple[int, str] | None:
    """Line and text of the first match."""
    match = pattern.search(text)
    return (text.count("\n", 0, match.start()) + 1, match[0]) if match else None
