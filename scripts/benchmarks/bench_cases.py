"""The cases of `make bench`: this project and its peers at the same work. Needs no torch."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

HF, HF_PACKED, LIGER, LIGER_PACKED, UNSLOTH, OURS = "hf", "hf packed", "liger", "liger packed", "unsloth", "ours"
INSTALL = {  # of libraries that not every machine has
    "bitsandbytes": "pip install bitsandbytes",
    "liger_kernel": 'pip install -e ".[liger]"',
    "unsloth": "pip install unsloth, in a separate environment: it chooses the versions of torch and transformers",
}
NEEDS = {LIGER: "liger_kernel", LIGER_PACKED: "liger_kernel", UNSLOTH: "unsloth"}


@dataclass(frozen=True)
class Case:
    """Rows are cut at 512 tokens; LoRA r=16 on all linear layers, or every weight (`full`).

    Attributes:
        how: whose code trains.
        tokens: of a micro-batch, counted as in `tok/s`; of packed rows. rows: of a micro-batch, for padded ones.
        recompute: blocks are computed again in the backward pass. grouped: padded rows are of similar length.
    """

    how: str
    tokens: int = 16384
    rows: int = 0
    shape: str = "7b"
    share: bool = True
    recompute: bool = False
    grouped: bool = True
    quantize: str = "none"
    graphs: bool = False
    dropout: float = 0.0
    full: bool = False

    @property
    def process(self) -> str:
        """Cases of the same name are measured in one process. Libraries that replace parts of others have their own."""
        return {LIGER: "liger", LIGER_PACKED: "liger", UNSLOTH: "unsloth"}.get(self.how, "stock")

    @property
    def model_key(self) -> tuple[object, ...]:
        """Cases with equal keys can share one loaded model."""
        checkpointed = self.how == UNSLOTH and self.recompute  # a property of its model
        return self.shape, self.quantize, self.how, self.dropout, self.full, checkpointed

    @property
    def weights_key(self) -> tuple[str, bool]:
        """Cases with equal keys compute with the same weights up to bf16's rounding (fp8 adds its own)."""
        return self.shape, self.quantize == "nf4"

    def missing(self) -> str:
        """How to install the libraries it needs; empty if they are installed."""
        needed = [NEEDS[self.how]] if self.how in NEEDS else []
        needed += ["bitsandbytes"] if self.quantize == "nf4" else []
        return "; ".join(INSTALL[library] for library in needed if importlib.util.find_spec(library) is None)


CASES = {
    "hf padded 32": Case(HF, rows=32, grouped=False),
    "hf grouped 64": Case(HF, rows=64),
    "packed": Case(OURS, share=False),
    "shared": Case(OURS),
    "shared, dropout": Case(OURS, dropout=0.05),
    "shared, checkpointed": Case(OURS, tokens=4096, recompute=True),
    "fp8": Case(OURS, quantize="fp8"),
    "nf4, checkpointed": Case(OURS, tokens=4096, quantize="nf4", recompute=True),
    "135m shared": Case(OURS, tokens=65536, shape="135m"),
    "135m shared, graphs": Case(OURS, tokens=65536, shape="135m", graphs=True),
    "135m, 128 rows, graphs": Case(OURS, tokens=15360, shape="135m", graphs=True),
    "135m, 128 rows, graphs, dropout": Case(OURS, tokens=15360, shape="135m", graphs=True, dropout=0.05),
    "135m full, 128 rows": Case(OURS, tokens=15360, shape="135m", full=True),
    "135m full, 128 rows, graphs": Case(OURS, tokens=15360, shape="135m", full=True, graphs=True),
    "135m full, hf grouped 128": Case(HF, rows=128, shape="135m", full=True),
    "hf grouped 64, Liger": Case(LIGER, rows=64),
    "Liger packed, varlen": Case(LIGER_PACKED),
    "135m, Liger packed, varlen": Case(LIGER_PACKED, tokens=65536, shape="135m"),
    "Unsloth, grouped 64": Case(UNSLOTH, rows=64),
    "Unsloth 4-bit, checkpointed": Case(UNSLOTH, rows=64, quantize="nf4", recompute=True),
    "hf padded 4": Case(HF, rows=4, grouped=False),
    "135m packed": Case(OURS, tokens=65536, shape="135m", share=False),
    "135m, 128 rows": Case(OURS, tokens=15360, shape="135m"),
    "bf16, 32 rows": Case(OURS, tokens=4060),
    "bf16, 32 rows, graphs": Case(OURS, tokens=4060, graphs=True),
    "fp8, 32 rows": Case(OURS, tokens=4060, quantize="fp8"),
    "fp8, 32 rows, graphs": Case(OURS, tokens=4060, quantize="fp8", graphs=True),
    "nf4 checkpointed, 8 rows": Case(OURS, tokens=1015, quantize="nf4", recompute=True),
    "nf4 checkpointed, 8 rows, graphs": Case(OURS, tokens=1015, quantize="nf4", recompute=True, graphs=True),
    "tiny": Case(OURS, tokens=2048, shape="tiny"),
    "tiny hf": Case(HF, rows=16, shape="tiny"),
    "tiny hf packed": Case(HF_PACKED, tokens=2048, shape="tiny"),
    "tiny full": Case(OURS, tokens=2048, shape="tiny", full=True),
    "tiny Liger packed": Case(LIGER_PACKED, tokens=2048, shape="tiny"),
    "tiny Unsloth": Case(UNSLOTH, rows=16, shape="tiny"),
}
SMALL_PASSES = tuple(
    name for name in CASES if ", 32 rows" in name or ", 8 rows" in name
)  # as each rank has on several cards
ONLY_BY_NAME = ("hf padded 4", "135m packed", "135m, 128 rows", *SMALL_PASSES)


def default_cases(has_card: bool) -> list[str]:
    """All of the table, in its order; without a card the tiny ones, which only show that everything runs."""
    return [n for n, case in CASES.items() if (case.shape == "tiny") != has_card and n not in ONLY_BY_NAME]
