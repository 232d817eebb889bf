"""Memory that is reused while tensors come and go.

glibc gives every large block back to the system when it is freed, and the system fills the next one with zeros, page by
page. A merge allocates four times the size of the model in such blocks: that took more than half of its time.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator

# Parameters of mallopt, from glibc's malloc.h, and their defaults.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
DEFAULTS = {M_TRIM_THRESHOLD: 128 * 1024, M_MMAP_MAX: 65536}
REUSED = {M_TRIM_THRESHOLD: 2**31 - 1, M_MMAP_MAX: 0}
MOST_FREE = 1 << 30  # bytes that wait to be reused


class _Heap(ctypes.Structure):
    """`struct mallinfo2` of glibc 2.33."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
    )]  # fmt: skip


@contextlib.contextmanager
def reused_memory() -> Iterator[Callable[[], None]]:
    """What the main thread frees stays in this process, for its next blocks, until the end of the context.

    Blocks of many sizes leave holes, so the caller calls the function that it gets from time to time: it gives free
    memory back when there is more than 1 GiB. Other threads have separate heaps, which hold no large blocks. Where
    the C library cannot do it, nothing changes.
    """
    library = ctypes.CDLL(None)
    if not all(hasattr(library, name) for name in ("mallopt", "malloc_trim", "mallinfo2")):
        yield lambda: None
        return
    library.mallinfo2.restype = _Heap

    def trim() -> None:
        if library.mallinfo2().fordblks > MOST_FREE:
            library.malloc_trim(0)

    try:
        for name, value in REUSED.items():
            library.mallopt(name, value)
        yield trim
    finally:
        for name, value in DEFAULTS.items():
            library.mallopt(name, value)
        library.malloc_trim(0)
