"""Errors that a user can cause, as one message: what is wrong, where, and what to do about it."""

from __future__ import annotations


class UserError(Exception):
    """Stops a command with exit code 2 and no traceback.

    Args:
        what: what is wrong, with the value that is wrong in it.
        where: file, line and field, as far as they are known.
        fix: what the user can do.
    """

    def __init__(self, what: str, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what, where, fix)  # all three, so that it survives the way out of a worker process

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)


class Interrupted(Exception):
    """Ctrl-C or SIGTERM after the work so far was made safe; the command ends with `code`."""

    def __init__(self, message: str, code: int = 130) -> None:
        self.code = code
        super().__init__(message)


def one_line(error: object, most: int = 300) -> str:
    """The text of a library's error on one line, cut to `most` characters, for a message of ours.

    A `KeyError` says only the key and some errors say nothing: those are named by their class.
    """
    text = f"KeyError: {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
    return " ".join(text.split())[:most]
