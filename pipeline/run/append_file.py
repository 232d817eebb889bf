"""A file of lines that is only ever appended to: after a crash or a full disk it holds whole lines."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from pipeline.run.errors import UserError
from pipeline.run.files import disk_errors, fsync_path, make_folder


class AppendFile:
    """Appends for one process at a time.

    Attributes:
        size: bytes of whole lines. end: bytes of the file; more than `size` where a crash cut the last line. The reader
            of an existing file sets both.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = self.end = 0

    def append(self, data: bytes) -> None:
        """Appends whole lines; they are on the disk when this returns, and after an error the file is as it was.

        `size` stays as it is: the caller counts the lines.

        Raises:
            UserError: the disk is full, there are no rights, or another process writes into the file.
        """
        make_folder(self.path.parent)
        is_new = not self.path.exists()
        with disk_errors(self.path.parent), open(self.path, "ab", buffering=0) as file:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_size != self.end:
                what = "another command writes into this journal, or has since this one read it"
                raise UserError(what, str(self.path), "wait until it has ended, then run the same command again")
            if self.end != self.size:  # a crash cut the last line; the next one must not be joined to it
                os.ftruncate(file.fileno(), self.size)
                self.end = self.size
            try:
                view = memoryview(data)
                while view:  # a disk that is nearly full takes a part
                    view = view[file.write(view) :]
                os.fsync(file.fileno())
            except BaseException:
                os.ftruncate(file.fileno(), self.size)
                raise
            self.end = self.size + len(data)
        if is_new:
            with disk_errors(self.path.parent):
                fsync_path(self.path.parent)
