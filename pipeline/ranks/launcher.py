"""What `accelerate launch` was asked for besides processes, by the variables that it sets. Needs no torch."""

from __future__ import annotations

import os

from pipeline.run.errors import UserError

FSDP, DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"


def launched_with_fsdp() -> bool:
    """Whether `accelerate launch` had a config of type FSDP."""
    return _is_set(FSDP)


def check_launcher() -> None:
    """Raises:
    UserError: `accelerate launch` had a config of type DeepSpeed.
    """
    if _is_set(DEEPSPEED):
        what = "DeepSpeed's engine would replace the training loop, its optimizer and its checkpoints"
        fix = "set train.shard=full, which shards as ZeRO-3 does, and start with configs/accelerate/fsdp.yaml"
        raise UserError(what, "accelerate launch", fix)


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true")
