"""The socket that the server listens on; bound before anything slow, so that a port in use is told at once."""

from __future__ import annotations

import errno
import os
import socket

from pipeline.config.serving import Serve
from pipeline.run.errors import UserError

BACKLOG = 512  # connections that the kernel keeps until they are accepted


def bind(settings: Serve) -> socket.socket:
    """A socket with the address `serve.host` and `serve.port`; nothing can connect until `listen`.

    Raises:
        UserError: the address is not this machine's, or the port is in use or not permitted.
    """
    host = settings.host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        fix = "127.0.0.1, 0.0.0.0, or an address of this machine"
        raise UserError(f"no such address: {settings.host}", "serve.host", fix) from None
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # on Windows it would allow a second server on the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _problem(settings, error) from None
    return listener


def listen(listener: socket.socket, settings: Serve) -> None:
    """Lets clients connect.

    Raises:
        UserError: another program has taken the port in the meantime.
    """
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        raise _problem(settings, error) from None


def _problem(settings: Serve, error: OSError) -> UserError:
    if error.errno == errno.EADDRINUSE:
        what = f"port {settings.port} is in use by another program"
        return UserError(what, "serve.port", f"serve.port={settings.port + 1}, or serve.port=0 for a free one")
    if error.errno in (errno.EACCES, errno.EPERM):
        what = f"port {settings.port} is for the system's own programs"
        return UserError(what, "serve.port", "serve.port=8000, or another one above 1023")
    what = f"cannot listen on {settings.host}, port {settings.port}: {os.strerror(error.errno or errno.EIO)}"
    return UserError(what, "serve.host", "127.0.0.1, 0.0.0.0, or an address of this machine")


def address_of(listener: socket.socket, host: str) -> str:
    """The address for a browser on this machine, such as `http://127.0.0.1:8000`."""
    port, name = listener.getsockname()[1], host.strip("[]")
    if name in ("0.0.0.0", "::", ""):
        name = "127.0.0.1"
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
