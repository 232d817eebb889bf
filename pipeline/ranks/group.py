"""torch's process group of a run, on the board's store."""

from __future__ import annotations

from datetime import timedelta

from pipeline.ranks.board import ANSWER, Board, open_board
from pipeline.ranks.card import uses_cpu
from pipeline.ranks.place import Place

# Ranks may wait this long in an exchange, as while the first one measures or writes; the watch finds those that hang.
LONGEST_WAIT = timedelta(days=2)


def join_group(board: Board, place: Place) -> None:
    """Starts torch.distributed under the attempt's name. By itself torch would read the addresses that ranks of an
    earlier attempt left in torchrun's store, and accelerate takes the group that is there."""
    import torch
    from torch.distributed import PrefixStore, init_process_group, is_initialized

    if is_initialized():
        return
    if not uses_cpu():
        torch.cuda.set_device(place.local)
    # A connection of its own: waiting for other ranks on the board's would hold up the watch.
    store = PrefixStore(f"{board.prefix}group", open_board(place, ANSWER).store)
    store.set_timeout(LONGEST_WAIT)
    init_process_group(
        "gloo" if uses_cpu() else "nccl", store=store, rank=place.rank, world_size=place.world, timeout=LONGEST_WAIT
    )
