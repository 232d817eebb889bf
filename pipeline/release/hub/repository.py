"""A model repository on a hub: what it holds, sending files, and checking what arrived. By `huggingface_hub`.

Large files are sent one by one before the commit, and a hub does not ask again for bytes that it has. So a push that
was interrupted goes on where it stopped, and nobody sees a repository with half of its files.

https://huggingface.co/docs/huggingface_hub/guides/upload, `preupload_lfs_files`
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.release.hub.contents import File
from pipeline.run.errors import UserError, one_line
from pipeline.run.progress import bar, working
from pipeline.run.terminal import quoted

WRITTEN_BY_THE_HUB = (".gitattributes",)
TOKEN = "`hf auth login`, or HF_TOKEN with a token that may write (Settings, Access Tokens on the hub)"


@dataclass(frozen=True)
class Stored:
    """A file in the repository. sha256: of large files. blob: git's hash of the others."""

    bytes: int
    sha256: str
    blob: str


@dataclass(frozen=True)
class State:
    """What a repository holds, by name, and whether only its owner sees it."""

    is_private: bool
    files: dict[str, Stored]


class Repository:
    """A model repository of a hub. name: such as you/mine.

    Raises:
        UserError: the name is not valid. Every method: no token, no right, no network, or the hub's own errors.
    """

    def __init__(self, name: str) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        with contextlib.suppress(HFValidationError):
            validate_repo_id(name)
            if name.count("/") == 1:
                self.name, self.api = name, HfApi()
                return
        what = f"not the name of a repository: {quoted(name)}" if name else "REPO is missing"
        raise UserError(what, "REPO", "such as REPO=your-name/mine: letters, digits, '-', '_' and '.'")

    @property
    def host(self) -> str:
        return urlsplit(self.api.endpoint).netloc

    @property
    def page(self) -> str:
        return f"{self.api.endpoint}/{self.name}"

    def account(self) -> str:
        """The account that the token belongs to."""
        with self._errors():
            return str(self.api.whoami()["name"])

    def state(self) -> State | None:
        """What the repository holds; None where there is none, or none that this account may see."""
        from huggingface_hub.errors import RepositoryNotFoundError

        with self._errors():
            try:
                info = self.api.model_info(self.name, files_metadata=True)
            except RepositoryNotFoundError:
                return None
        files = {}
        for one in info.siblings or []:
            sha256 = str(one.lfs.sha256) if one.lfs else ""
            files[one.rfilename] = Stored(int(one.size or 0), sha256, str(one.blob_id or ""))
        return State(bool(info.private), files)

    def create(self, private: bool) -> None:
        """Makes the repository where there is none."""
        with self._errors():
            self.api.create_repo(self.name, private=private, exist_ok=True)

    def send(self, files: Sequence[File], removed: Sequence[str], message: str) -> None:
        """Sends the files as one commit, and removes files from the repository (its history keeps them)."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        additions = [CommitOperationAdd(file.target, str(file.path)) for file in files]
        total = sum(file.bytes for file in files)
        with self._errors(), bar(total=total >> 20, what=f"push: sending to {self.host}", unit="MiB") as progress:
            for file, addition in sorted(zip(files, additions, strict=True), key=lambda pair: -pair[0].bytes):
                progress.note = file.target
                self.api.preupload_lfs_files(self.name, [addition], free_memory=False)
                progress.update(file.bytes >> 20)
            deletions = [CommitOperationDelete(name) for name in removed]
            self.api.create_commit(self.name, [*additions, *deletions], commit_message=message)

    def check(self, files: Sequence[File]) -> None:
        """Compares every file in the repository with what was sent.

        Raises:
            UserError: one differs.
        """
        with working("push: comparing with the hub"):
            state = self.state()
        for file in files:
            if state is None or not is_stored(file, state):
                raise UserError(f"{file.target} did not arrive as it was sent", self.page, "run the same command again")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns errors of the hub's library into one message."""
        from huggingface_hub import errors

        no_answer = errors.HfHubHTTPError.__bases__[0]  # of httpx, or of the copy that newer versions bring along
        try:
            yield
        except errors.OfflineModeIsEnabled:
            raise UserError("HF_HUB_OFFLINE is set, so nothing can be sent", self.host, "unset it") from None
        except errors.LocalTokenNotFoundError:
            raise UserError("no token of the hub was found", self.host, TOKEN) from None
        except errors.HfHubHTTPError as error:
            raise self._refused(error) from None
        except (no_answer, ConnectionError, TimeoutError) as error:
            what = f"{self.host} cannot be reached: {one_line(error)}"
            raise UserError(what, self.name, "check the network, and run the same command again") from None
        except (RuntimeError, ValueError) as error:  # an upload that failed, or metadata that the hub refuses
            cause = error.__cause__
            if isinstance(cause, errors.HfHubHTTPError):
                raise self._refused(cause) from None
            raise UserError(
                f"the hub did not take it: {one_line(error)}", self.page, "run the same command again"
            ) from None

    def _refused(self, error: Any) -> UserError:
        """The message for an answer of the hub with an error code."""
        code = getattr(error.response, "status_code", 0)
        if code == 401:
            return UserError(f"{self.host} does not accept the token (401)", self.host, TOKEN)
        if code == 403:
            what = f"this account may not write to {self.name} (403)"
            return UserError(what, self.host, "name a repository of yours, with a token that may write")
        fix = "wait, and run the same command again" if code == 429 or code >= 500 else "look at the repository's page"
        return UserError(f"{self.host} answered {code}: {one_line(error)}", self.page, fix)


def is_stored(file: File, state: State) -> bool:
    """Whether the repository holds this file with these bytes."""
    stored = state.files.get(file.target)
    if stored is None or stored.bytes != file.bytes:
        return False
    return stored.sha256 == file.sha256 if stored.sha256 else stored.blob == git_blob(file.path)


def git_blob(path: Path) -> str:
    """Git's hash of a file: SHA-1 of `blob SIZE\\0` and its bytes."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
