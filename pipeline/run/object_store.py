"""Objects of a store with the S3 API (AWS, MinIO, R2, ...) as files: find, describe, read as a stream, write.

    s3://bucket/folder/part-*.jsonl -> objects() -> [Object] -> Object.stream() -> bytes, a few MB in memory

It uses pyarrow's client, which every installation of Suri has. Keys, region and endpoint come from the places that all
S3 clients use: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, the machine's role; AWS_REGION; AWS_ENDPOINT_URL.
They are never written to a file or a message.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import itertools
import operator
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from pipeline.run.errors import UserError, one_line
from pipeline.run.object_address import NO_CREDENTIALS, path_of

MAGIC = re.compile(r"[*?[]")
ENVIRONMENT = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
               "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION")  # fmt: skip
BLOCK = 8 << 20  # bytes that one request asks for
HEADS = 16  # objects that are described at a time
CONNECT, WAIT = 10, 60  # seconds: to connect, and to wait for the next bytes
CAUSES = (  # text in the client's error: what is wrong, and the fix
    ("NO_SUCH_BUCKET", "no such bucket", "check the name, and AWS_ENDPOINT_URL if the store is not AWS"),
    ("NETWORK_CONNECTION|curlCode|REQUEST_TIMEOUT|timed out", "the object store cannot be reached",
     "check the network, AWS_ENDPOINT_URL (now {endpoint}) and AWS_REGION"),
    ("ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|UNRECOGNIZED_CLIENT|EXPIRED|HTTP status 40[13]|InvalidToken",
     "the object store refuses: no credentials, wrong ones, or without rights to this",
     "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN too if you have one), or AWS_PROFILE"),
    ("HTTP status 301|PermanentRedirect", "the bucket is in another region", "set AWS_REGION to it"),
)  # fmt: skip


@dataclass(frozen=True)
class Object:
    """An object, as it was when it was described. address: s3://bucket/key. etag: changes with its content."""

    address: str
    size: int
    etag: str

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        return self.address.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def stream(self, count: Callable[[int], Any] = lambda _: None) -> io.RawIOBase:
        """Its bytes. count: is called with the number of bytes of each block that was read.

        Raises:
            UserError: (also while reading) as `errors`; or it is no longer the object that was described.
        """
        return _Stream(self, count)

    def random_access(self) -> Any:
        """A file of pyarrow, for formats that are read from their end."""
        with errors(self.address):
            return connected().open_input_file(path_of(self.address))

    def sha256(self, progress: Callable[[int], Any] | None = None) -> str:
        """Hex digest of its bytes, which are read for it."""
        digest = hashlib.sha256()
        with self.stream(progress or (lambda _: None)) as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
        return digest.hexdigest()


DataFile: TypeAlias = Path | Object


def size_of(file: DataFile) -> int:
    """Bytes of a file or object."""
    return file.size if isinstance(file, Object) else file.stat().st_size


def check_target(address: str) -> None:
    """Checks an address to write to.

    Raises:
        UserError: as `path_of`, or it holds a wildcard.
    """
    if MAGIC.search(path_of(address)):
        raise UserError("the address to write to holds a wildcard", address, "name one folder: s3://bucket/folder")
    endpoint()


def connected() -> Any:
    """pyarrow's client for the environment as it is now.

    Raises:
        UserError: this build of pyarrow has no S3, or the environment names no store.
    """
    return _client(*(os.environ.get(name, "") for name in ENVIRONMENT))


@functools.lru_cache(maxsize=1)
def _client(*environment: str) -> Any:
    try:
        from pyarrow.fs import S3FileSystem
    except ImportError:
        fix = "install pyarrow from PyPI or conda-forge, which have it; or copy the files to a disk"
        raise UserError("the installed pyarrow was built without S3", "s3://", fix) from None
    scheme, _, host = (endpoint() or "https://").partition("://")
    more = {"scheme": scheme, "endpoint_override": host.strip("/")} if host else {}
    try:
        return S3FileSystem(connect_timeout=CONNECT, request_timeout=WAIT, **more)
    except ValueError as error:
        raise UserError(f"no object store: {one_line(error)}", "AWS_ENDPOINT_URL", "https://host:port") from None


def endpoint() -> str:
    """AWS_ENDPOINT_URL with its scheme; empty: Amazon's own.

    Raises:
        UserError: it holds credentials.
    """
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if "@" in url:
        raise UserError("the address of the object store holds credentials", "AWS_ENDPOINT_URL", NO_CREDENTIALS)
    return url if not url or "://" in url else f"https://{url}"


@contextlib.contextmanager
def errors(address: str) -> Iterator[None]:
    """Turns errors of the client into a `UserError` that names what to do."""
    try:
        yield
    except FileNotFoundError:
        fix = "check the address; `aws s3 ls` or `mc ls` lists what is there"
        raise UserError("no such object", address, fix) from None
    except OSError as error:
        text = str(error)
        for pattern, what, fix in CAUSES:
            if re.search(pattern, text, re.IGNORECASE):
                raise UserError(what, address, fix.format(endpoint=endpoint() or "not set")) from None
        raise UserError(f"the object store failed: {one_line(text)}", address, "run the same command again") from None


def described(address: str) -> Object:
    """An object that is there.

    Raises:
        UserError: it is not, or as `errors`.
    """
    path = path_of(address)
    with errors(address), connected().open_input_stream(path, None) as stream:  # one HEAD; nothing is read yet
        return _object(address, stream)


def _object(address: str, stream: Any) -> Object:
    """What the store said of an object when its stream was opened."""
    facts = stream.metadata()
    return Object(address, int(facts["Content-Length"]), facts.get("ETag", b"").decode().strip('"'))


def objects(pattern: str) -> list[Object]:
    """The objects of an address or a pattern (* ? [...], and ** for any folders), sorted by name.

    Raises:
        UserError: there is none, or as `errors`.
    """
    path = path_of(pattern)
    with errors(pattern):
        info = connected().get_file_info(path)
    kind = info.type.name
    if kind == "File":
        return [described(pattern)]
    if kind == "Directory":
        fix = f"name its files: {pattern.rstrip('/')}/*.jsonl"
        raise UserError("a folder of a bucket, not an object", pattern, fix)
    _check_bucket(path, pattern)
    if not MAGIC.search(path):
        return [described(pattern)]  # raises: it is not there
    found = sorted(name for name in _listed(pattern, path) if _fits(name.split("/"), path.split("/")))
    if not found:
        raise UserError("no object matches", pattern, "check the address; * does not go beyond a /, ** does")
    with ThreadPoolExecutor(HEADS) as pool:
        return list(pool.map(described, (f"s3://{name}" for name in found)))


def _check_bucket(path: str, address: str) -> None:
    """Raises:
    UserError: there is no such bucket, or its name holds a wildcard.
    """
    bucket = path.partition("/")[0]
    if MAGIC.search(bucket):
        raise UserError("the name of the bucket holds a wildcard", address, "name one bucket: s3://bucket/*.jsonl")
    with errors(f"s3://{bucket}"):
        exists = connected().get_file_info(bucket).type.name != "NotFound"
    if not exists:
        raise UserError("no such bucket", f"s3://{bucket}", CAUSES[0][2])


def _listed(pattern: str, path: str) -> list[str]:
    """Names of the objects below the last folder before the first wildcard."""
    from pyarrow.fs import FileSelector

    parts = path.split("/")
    first = next(i for i, part in enumerate(parts) if MAGIC.search(part))
    selector = FileSelector("/".join(parts[:first]), allow_not_found=True, recursive=first < len(parts) - 1)
    with errors(pattern):
        return [info.path for info in connected().get_file_info(selector) if info.type.name == "File"]


def _fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether the folders and the name of an object fit a pattern of them, in which ** stands for any number."""
    fits = [True] + [False] * len(names)  # for each number of names: whether the patterns so far take exactly those
    for pattern in patterns:
        if pattern == "**":
            fits = list(itertools.accumulate(fits, operator.or_))
        else:
            fits = [False, *(before and fnmatchcase(name, pattern) for before, name in zip(fits, names, strict=False))]
    return fits[-1]


class _Stream(io.RawIOBase):
    """An object's bytes, asked for in blocks; complete and of one version, or an error."""

    def __init__(self, there: Object, count: Callable[[int], Any]) -> None:
        self._object, self._count, self._left = there, count, there.size
        with errors(there.address):
            # Without compression=None pyarrow unpacks every object that is called .gz, also one that is not packed.
            self._inner = connected().open_input_stream(path_of(there.address), compression=None, buffer_size=BLOCK)
            self._check(_object(there.address, self._inner))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with errors(self._object.address):
            data = self._inner.read(len(buffer))
        if not data and len(buffer):
            if self._left:
                got, size = self._object.size - self._left, self._object.size
                raise UserError(f"the object ended after {got:,} of its {size:,} bytes", self._object.address,
                                "run the same command again; nothing of it was used")  # fmt: skip
            self._check(described(self._object.address))
        buffer[: len(data)] = data
        self._left -= len(data)
        self._count(len(data))
        return len(data)

    def _check(self, now: Object) -> None:
        if now != self._object:
            fix = "wait until no other program writes it, then run the same command again"
            raise UserError("the object changed while it was read", self._object.address, fix)

    def close(self) -> None:
        if not self.closed and hasattr(self, "_inner"):
            self._inner.close()
        super().close()
