"""Texts of licences in an export: those of the base, the notice that its licence asks for, and a page of all terms."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.model.base.licences import TEXTS, texts
from pipeline.release.front_matter import SEVERAL
from pipeline.release.terms import Party, is_under_base_terms, section
from pipeline.run.files import write_text

NOTICE = "NOTICE"


def write_licence_files(base: Path | None, found: Sequence[Party], name: str, folder: Path) -> None:
    """Copies the base's texts, and writes NOTICE and LICENSE.md where they are asked for.

    Args:
        base: folder of the base; None for random weights. found: whose terms apply. name: of the model.
        folder: of the export.
    """
    copied = texts(base)
    for path in copied:
        # The page of all terms has the name that the hub links to.
        target = "LICENSE.base.md" if path.name.lower() == SEVERAL.lower() else path.name
        shutil.copyfile(path, folder / target)
    notices = [p.licence.notice for p in found if p.role == "base" and p.licence is not None and p.licence.notice]
    if notices and not any(path.name.lower().startswith("notice") for path in copied):
        write_text(folder / NOTICE, f"{notices[0]}\n\n{name} was made from it by instruction tuning.\n")
    if not is_under_base_terms(found):
        write_text(folder / SEVERAL, f"# Licences of {name}\n\n{section(found, name)}\n")


def licence_files(folder: Path) -> list[str]:
    """Names of the files with terms in an export, which go with every part of it."""
    return sorted(path.name for path in folder.iterdir() if path.is_file() and TEXTS.fullmatch(path.name))
