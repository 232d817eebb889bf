"""The ways to adapt a model that `adapter.method` can name: what the config, the plan and the pages know of each.

One more method takes an entry here and a file in `pipeline/model/methods/`, which implements it. No torch and no peft:
the config is checked against this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.run.nearest import nearest


@dataclass(frozen=True)
class MethodSpec:
    """Facts about a method that are known without running it.

    Attributes:
        name: as in the config.
        trains: what is trained, in a few words.
        keys: the keys of `adapter` that it reads.
        export: `merged` into stock weights; `adapter`, where no weights of the base's form compute the same; `nothing`.
        is_peft: whether stock peft loads what is saved.
        float32: whether the base's own weights are trained, and therefore are in float32 for every `model.dtype`.
        no_quantized: why the frozen base may not be in nf4 or int8; empty when it may.
        no_tokens: why it cannot train new tokens; empty when it can.
        not_decayed: whether what it trains may hold biases and norms, which weight decay leaves out.
        never_packed: why rows never go through as packs; empty when they may, and then the model decides.
    """

    name: str
    trains: str
    keys: tuple[str, ...] = ()
    export: Literal["merged", "adapter", "nothing"] = "merged"
    is_peft: bool = False
    float32: bool = False
    no_quantized: str = ""
    no_tokens: str = "it trains none of their rows in the embedding and in the head"
    not_decayed: bool = True
    never_packed: str = ""


def _bottleneck(name: str, trains: str) -> MethodSpec:
    return MethodSpec(name, trains, ("bottleneck", "last_blocks"), "adapter")


def _virtual_tokens(name: str, trains: str, not_decayed: bool = False) -> MethodSpec:
    return MethodSpec(
        name, trains, ("virtual_tokens",), "adapter", is_peft=True, not_decayed=not_decayed,
        never_packed="virtual tokens stand in front of each row by itself, and rows of a pack share one front",
    )  # fmt: skip


METHODS = {
    spec.name: spec
    for spec in (
        MethodSpec(
            "lora", "low-rank updates of linear layers",
            ("r", "alpha", "dropout", "targets", "last_blocks", "dora", "rslora", "init", "lora_plus"),
            is_peft=True, no_tokens="", not_decayed=False,
        ),
        MethodSpec(
            "full", "every weight", float32=True, no_quantized="weights in few bits have no gradient", no_tokens="",
        ),
        MethodSpec(
            "head", "the output head",
            no_quantized="the head would learn on features that the exported base does not give",
        ),
        MethodSpec("norms", "gains and biases of the normalisation layers"),
        MethodSpec("ia3", "scales of keys, values and the MLP's inner activations", ("targets",), is_peft=True,
                   not_decayed=False),
        _bottleneck("houlsby", "bottleneck adapters behind attention and MLP"),
        _bottleneck("pfeiffer", "bottleneck adapters behind the MLP"),
        _virtual_tokens("prefix", "keys and values in front of every block's own"),
        _virtual_tokens("prompt", "embeddings in front of the input"),
        _virtual_tokens("ptuning", "embeddings in front of the input, through an MLP", not_decayed=True),
        MethodSpec(
            "none", "nothing; examples stand in the prompt", ("shots",), "nothing",
            no_tokens="nothing is trained", never_packed="nothing is trained",
        ),
    )
}  # fmt: skip


def check_name(name: object) -> str:
    """A name that is in the table.

    Raises:
        ValueError: it is not; with the nearest one that is, and all of them.
    """
    if isinstance(name, str) and name in METHODS:
        return name
    hint = nearest(str(name).lower(), METHODS)
    raise ValueError(f"no such method; {hint}{' ' if hint else ''}there is {', '.join(METHODS)}")
