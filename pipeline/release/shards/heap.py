"""Memory that is reused while tensors come and go.

glibc gives every large block back to the system when it is freed, and the system fills the next one with zeros, page by
page. A merge allocates four times the size of the model in such blocks: that took more than half of its time.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

# Parameters of mallopt, from glibc's malloc.h, and their defaults.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
DEFAULTS = {M_TRIM_THRESHOLD: 128 * 1024, M_MMAP_MAX: 65536}
REUSED = {M_TRIM_THRESHOLD: 2**31 - 1, M_MMAP_MAX: 0}


@contextlib.contextmanager
def reused_memory() -> Iterator[bool]:
    """What the main thread frees stays in this process, for its next blocks, until the end of the context.

    Other threads have heaps of their own, which hold no large blocks. True where the C library can do it; elsewhere
    nothing changes.
    """
    library = ctypes.CDLL(None)
    can = hasattr(library, "mallopt") and hasattr(library, "gnu_get_libc_version")
    if not can:
        yield False
        return
    try:
        for name, value in REUSED.items():
            library.mallopt(name, value)
        yield True
    finally:
        for name, value in DEFAULTS.items():
            library.mallopt(name, value)
        library.malloc_trim(0)
