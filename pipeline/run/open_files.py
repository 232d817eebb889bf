"""How many connections a process may have open: each is a file, and the usual limit is 1,024."""

from __future__ import annotations

import resource

OTHER_FILES = 128  # that are open besides connections: of models, libraries and the run


def connections_allowed(wanted: int) -> int:
    """Connections that this process may have open, after its own limit was raised for as many as `wanted`; 0 or less
    where not even other files fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    needed = wanted + OTHER_FILES
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft - OTHER_FILES
