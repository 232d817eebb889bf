"""Who may ask: the address that is listened on, the names that requests may give it, and the token."""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.config.serving import Serve
from pipeline.run.errors import UserError

VARIABLE = "SURI_TOKEN"
LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:/@\s]+)(?::([0-9]{1,5}))?")


@dataclass(frozen=True)
class Access:
    """Attributes:
    names: host names that a request may name, in small letters. any_address: it may also name any IP address.
    token: empty: none is demanded.
    """

    names: frozenset[str]
    any_address: bool
    token: str

    @classmethod
    def of(cls, settings: Serve, environment: Mapping[str, str] = os.environ) -> Access:
        """Raises:
        UserError: the address is not this machine's alone and there is no token, or the token cannot be sent.
        """
        token = _token(settings, environment)
        host = settings.host.strip("[]").lower()
        local = is_loopback(host)
        if not local and not token:
            variable = settings.token or VARIABLE
            what = f"serve.host={settings.host} lets other machines ask, and there is no token"
            fix = f"export {variable}=$(openssl rand -hex 16), or leave serve.host at 127.0.0.1"
            raise UserError(what, "serve.host", fix)
        own = set() if local else {socket.gethostname().lower()}
        return cls(frozenset({*LOCAL_NAMES, host, *own}), not local, token)

    def allows_host(self, header: str) -> bool:
        """Whether a Host header names this server. A page of another site reaches it under that site's name when the
        name's address was changed to ours (DNS rebinding), but not under an IP address."""
        name = host_name(header)
        return bool(name) and (name in self.names or (self.any_address and _is_address(name)))

    def allows_origin(self, origin: str, host: str) -> bool:
        """Whether a browser sends a request from this server's own page. origin: empty: from no page."""
        if not origin:
            return True
        scheme, mark, rest = origin.partition("://")
        return bool(mark) and scheme in ("http", "https") and rest.lower() == host.lower()

    def allows_token(self, authorization: str) -> bool:
        """Whether the right token was sent; takes the same time for any wrong one of its length."""
        if not self.token:
            return True
        scheme, _, given = authorization.partition(" ")
        same = hmac.compare_digest(given.strip().encode(), self.token.encode())
        return same and scheme.lower() == "bearer"


def host_name(header: str) -> str:
    """The name of a Host header without port and brackets, in small letters; empty when it has another form."""
    match = HOST.fullmatch(header)
    return match[1].strip("[]").lower().rstrip(".") if match else ""


def is_loopback(host: str) -> bool:
    """Whether a host is this machine under an address that no other one can reach."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _token(settings: Serve, environment: Mapping[str, str]) -> str:
    name = settings.token or VARIABLE
    token = environment.get(name, "").strip()
    if settings.token and not token:
        fix = f"export {name}=..., or name another variable with serve.token"
        raise UserError(f"the environment variable {name} holds no token", "serve.token", fix)
    if not all("!" <= letter <= "~" for letter in token):
        what = f"the token in {name} holds spaces or letters that no HTTP header can carry"
        raise UserError(what, "serve.token", f"export {name}=$(openssl rand -hex 16)")
    return token
