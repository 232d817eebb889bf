"""How many tokens may go through the model at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipeline.model.loss import loss_sum
from pipeline.progress import say
from pipeline.prompt.batch import Batch

CPU_TOKENS = 1024  # beyond this a CPU gains nothing
PROBE_TOKENS = 512
SHARE = 0.75  # of the free memory: room for the optimiser's first step and for fragmentation


def choose_micro_tokens(model: Any, wanted: int, longest: int) -> int:
    """`train.micro_tokens`, or what fits: measured with one small probe on a GPU, fixed on a CPU."""
    if wanted:
        return max(wanted, longest)
    if not torch.cuda.is_available():
        return max(CPU_TOKENS, longest)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    ids = np.ones((2, PROBE_TOKENS // 2), np.int64)
    loss_sum(model, Batch(ids, ids)).backward()
    per_token = max(1, (torch.cuda.max_memory_allocated() - before) // PROBE_TOKENS)
    model.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    chosen = max(longest, min(65536, int(free * SHARE / per_token)))
    say(f"train: {free / 2**30:.1f} GiB free, {per_token / 2**20:.2f} MiB a token -> at most {chosen:,} tokens at once")
    return chosen
