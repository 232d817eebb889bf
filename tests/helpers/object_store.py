"""An object store with the S3 API for tests: moto's server, in a separate process and environment.

moto needs another python-dateutil than constraints.txt pins, so `make .venv/.moto` makes it a separate environment.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

MOTO = Path(os.path.abspath(sys.prefix)) / "moto" / "bin" / "python"
KEYS = {"AWS_ACCESS_KEY_ID": "suri", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
needs_moto = pytest.mark.skipif(not MOTO.exists(), reason="needs moto: make .venv/.moto")


@dataclass(frozen=True)
class Store:
    """A running server. port: on 127.0.0.1."""

    port: int

    @property
    def environment(self) -> dict[str, str]:
        none = {"AWS_CONFIG_FILE": "/none", "AWS_SHARED_CREDENTIALS_FILE": "/none", "AWS_EC2_METADATA_DISABLED": "true"}
        return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", **KEYS, **none}

    def client(self) -> Any:
        from pyarrow.fs import S3FileSystem

        return S3FileSystem(
            access_key=KEYS["AWS_ACCESS_KEY_ID"], secret_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            endpoint_override=f"127.0.0.1:{self.port}", scheme="http", allow_bucket_creation=True,
        )  # fmt: skip

    def put(self, path: str, data: bytes) -> None:
        with self.client().open_output_stream(path, None) as stream:
            stream.write(data)

    def get(self, path: str) -> bytes:
        return bytes(self.client().open_input_stream(path, None).read())

    def names(self, folder: str) -> list[str]:
        from pyarrow.fs import FileSelector

        found = self.client().get_file_info(FileSelector(folder, recursive=True, allow_not_found=True))
        return sorted(info.path for info in found if info.type.name == "File")

    def ask(self, method: str, path: str, body: str = "") -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, path, body)
        connection.getresponse().read()

    def reset(self) -> None:
        """No bucket but `bucket`."""
        self.ask("POST", "/moto-api/reset")
        self.client().create_dir("bucket")


@contextlib.contextmanager
def running() -> Iterator[Store]:
    """A store for as long as the block lasts."""
    port = free_port()
    words = [str(MOTO), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            time.sleep(0.1)
        yield Store(port)
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
