"""Documents of a config as blocks; all that cannot be read are one message, before the first request."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pipeline.run.encoding import likely_encoding
from pipeline.run.errors import UserError
from pipeline.run.nearest import nearest_file
from pipeline.run.next_command import next_command
from pipeline.run.progress import bar, say
from pipeline.synthesis.documents import pdf_file, text_file, web_page
from pipeline.synthesis.documents.block import Block, Unreadable

WHERE = "synthesis.documents"
LARGEST = 64 << 20  # bytes of a text or a page
LARGEST_PDF = 1 << 30
MARKDOWN = (".md", ".markdown")
PAGES = (".html", ".htm", ".xhtml")
READ = (".txt", ".text", ".pdf", *MARKDOWN, *PAGES)
# What people expect to be read and is not; other files of a folder, such as pictures, are left out.
OTHERS = (".doc", ".docx", ".hwp", ".hwpx", ".odt", ".rtf", ".ppt", ".pptx", ".epub", ".xls", ".xlsx")
PDF = b"%PDF-"
NAMED = 5  # files that a message names


@dataclass(frozen=True)
class Document:
    """A file and its blocks."""

    path: Path
    blocks: tuple[Block, ...]


def files_of(documents: Sequence[str]) -> list[Path]:
    """The files that the config names, each once: files, globs, and folders with all that is below them.

    Raises:
        UserError: a file or folder does not exist, a pattern matches nothing, or a folder holds no document.
    """
    files: dict[Path, None] = {}
    for name in documents:
        path = Path(name)
        if path.is_file():
            found = [path]
        elif path.is_dir() or glob.has_magic(name):
            found = [path for path in _below(name) if _is_document(path)]
        else:
            raise UserError(f"no such document: {name}", WHERE, nearest_file(path, "give a file, a glob or a folder"))
        if not found:
            fix = f"it needs files that end in {', '.join(READ)}"
            raise UserError(f"no document in {name}", WHERE, fix)
        files |= dict.fromkeys(found)
    return list(files)


def has_pdf(files: Sequence[Path]) -> bool:
    """Whether one of the files is a PDF, whatever its name."""
    return any(_head(path).startswith(PDF) for path in files)


def read(documents: Sequence[str]) -> list[Document]:
    """All documents, in the order of the config and of their paths.

    Raises:
        UserError: some cannot be read (each is named with the reason), or the package for PDF is missing.
    """
    files = files_of(documents)
    if others := _left_out(documents):
        kinds = ", ".join(f"{count} x {kind}" for kind, count in others.most_common(NAMED))
        say(f"generate: files that are no documents are left out: {kinds}")
    if find_spec("pypdfium2") is None and has_pdf(files):
        fix = f"`{next_command('generate')}` installs it"
        raise UserError("the package pypdfium2, which reads PDF files, is not installed", "extra documents", fix)
    found, problems = list[Document](), list[tuple[Path, str]]()
    with bar(total=len(files), what="generate: reading documents") as progress:
        for path in files:
            try:
                found.append(Document(path, tuple(_blocks(path))))
            except Unreadable as error:
                problems.append((path, str(error)))
            except OSError as error:
                problems.append((path, f"cannot be read: {error.strerror or error}"))
            progress.update()
    if problems:
        raise _unreadable(problems, len(files))
    return found


def _blocks(path: Path) -> list[Block]:
    head, size = _head(path), path.stat().st_size
    if not size:
        raise Unreadable("empty")
    if head.startswith(PDF):
        if size > LARGEST_PDF:
            raise Unreadable(f"larger than {LARGEST_PDF >> 20} MB; split it")
        return pdf_file.blocks(path)
    if path.suffix.lower() in OTHERS:
        raise Unreadable(f"{path.suffix} is not read; save it as PDF or text")
    if path.suffix.lower() == ".pdf":
        raise Unreadable("no PDF, though it is called so")
    if size > LARGEST:
        raise Unreadable(f"larger than {LARGEST >> 20} MB; split it")
    data = path.read_bytes()
    if path.suffix.lower() in PAGES or head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        blocks = web_page.blocks(web_page.decoded(data))
    else:
        blocks = text_file.blocks(_text(data), path.suffix.lower() in MARKDOWN)
    if not any(c.isalpha() for block in blocks for c in block.text):
        raise Unreadable("no text in it")
    return blocks


def _text(data: bytes) -> str:
    """UTF-8 as text, lines end in line feeds."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        name = likely_encoding(data[data.rfind(b"\n", 0, error.start) + 1 :] if 0 not in data[:4] else data)
        if name:
            raise Unreadable(f"not UTF-8; it looks like {name}: iconv -f {name} -t UTF-8") from None
        raise Unreadable("not text") from None
    if "\0" in text:
        raise Unreadable("not text: it holds zero bytes")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(256).removeprefix(b"\xef\xbb\xbf")
    except OSError:
        return b""


def _below(name: str) -> list[Path]:
    """Files of a folder or of a pattern, whatever they are; hidden ones are none."""
    path = Path(name)
    if path.is_dir():
        paths = [
            p for p in sorted(path.rglob("*")) if not any(part.startswith(".") for part in p.relative_to(path).parts)
        ]
    else:
        paths = [Path(p) for p in sorted(glob.glob(name, recursive=True))]
    return [path for path in paths if path.is_file()]


def _is_document(path: Path) -> bool:
    """Whether a file is a document, or what people take for one."""
    return path.suffix.lower() in (*READ, *OTHERS)


def _left_out(documents: Sequence[str]) -> Counter[str]:
    """Files in the folders and patterns that are no documents, by the ends of their names."""
    files = dict.fromkeys(path for name in documents if not Path(name).is_file() for path in _below(name))
    return Counter(path.suffix.lower() or "no ending" for path in files if not _is_document(path))


def _unreadable(problems: Sequence[tuple[Path, str]], files: int) -> UserError:
    named = "; ".join(f"{path}: {problem}" for path, problem in problems[:NAMED])
    more = f"; and {len(problems) - NAMED:,} more" if len(problems) > NAMED else ""
    count = f"{len(problems):,} of {files:,} documents cannot be read" if files > 1 else "the document cannot be read"
    return UserError(f"{count}: {named}{more}", WHERE, "do what is said behind each, or leave it out of the list")
