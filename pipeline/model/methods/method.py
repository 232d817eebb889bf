"""What the pipeline asks of a way to adapt a model."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # the config reads the registry, so nothing here may need the config when it is imported
    from pipeline.config import Adapter, Config

Key = tuple[str | int, ...]
WEIGHTS = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"


class Method(abc.ABC):
    """One value of `adapter.method`. Subclasses say what differs from this.

    Attributes:
        name: as in the config.
        trains: what is trained, in a few words.
        keys: the keys of `adapter` that it reads.
        export: `merged` into stock weights; `adapter`, since no weights of the base's form say the same; or `nothing`.
        float32: whether the base's own weights are trained, and so are held in float32 whatever the run's type.
        bits: whether the frozen base may be in nf4 or int8; where not, `no_bits` says why.
        identity: whether the model says at step 0 what the base says, up to 1e-6.
        no_tokens: why it cannot train new tokens; empty when it can.
        leaves_out: whether what it trains may hold biases and norms, which weight decay leaves out.
        never_packed: why rows never go through as packs; empty when they may, and then the model decides.
    """

    name = ""
    trains = ""
    keys: tuple[str, ...] = ()
    export: Literal["merged", "adapter", "nothing"] = "merged"
    float32 = False
    bits = True
    no_bits = ""
    identity = True
    no_tokens = "it trains none of their rows in the embedding and in the head"
    leaves_out = True
    never_packed = ""

    def kernels(self, adapter: Adapter) -> bool:
        """Whether the fused kernels know its parameters, so that whole blocks go through as one function."""
        return False

    def described(self, adapter: Adapter) -> str:
        """For the model card."""
        return self.trains

    def problems(self, config: Config) -> list[tuple[Key, str]]:
        """(key, what is wrong and what to do) for all in the config that this method cannot do.

        A key that it does not read may stand there with its default: then it asks for nothing.
        """
        from pipeline.config import Adapter

        found: list[tuple[Key, str]] = []
        given, adapter, quantize = config.adapter.model_fields_set, config.adapter, config.model.quantize
        for key in sorted(given - {"method", *self.keys}):
            default = Adapter.model_fields[key].get_default(call_default_factory=True)
            if getattr(adapter, key) != default:
                reads = f"it reads {', '.join(self.keys)}" if self.keys else "it reads none of these keys"
                neutral = f"[{', '.join(default)}]" if isinstance(default, tuple) else str(default).lower()
                said = f"{self.name} does not use it ({reads}); remove it, or set its default, {neutral}"
                found.append((("adapter", key), said))
        if quantize in ("nf4", "int8") and not self.bits:
            said = f"{self.name} cannot be used on a base in {quantize}: {self.no_bits}; set model.quantize=none"
            found.append((("adapter", "method"), f"{said} or adapter.method=lora"))
        slow = self.never_packed
        if quantize == "fp8" and (slow or not self.kernels(adapter)):
            why = slow or "the kernels for fp8 know plain LoRA alone"
            found.append((("model", "quantize"), f"no fp8 with {self.name}: {why}; set quantize=none"))
        if config.model.add_tokens and self.no_tokens:
            said = f"{self.name} cannot train new tokens: {self.no_tokens}; use lora or full, or remove add_tokens"
            found.append((("model", "add_tokens"), said))
        return found

    @abc.abstractmethod
    def attach(self, model: Any, adapter: Adapter, seed: int, added: tuple[int, ...]) -> Any:
        """The model with exactly the wanted parameters trainable, in float32.

        Raises:
            UserError: the base cannot be adapted this way.
        """

    @abc.abstractmethod
    def save(self, model: Any, folder: Path, base: str) -> None:
        """Writes what was trained; `base` names what it was trained on."""

    @abc.abstractmethod
    def load(self, model: Any, folder: Path) -> Any:
        """Puts what was saved onto a base, frozen, in evaluation mode.

        Raises:
            UserError: it is damaged, or does not fit.
        """

    def merge(self, model: Any) -> Any:
        """The stock model that says what base + adapter say; only where `export` is `merged`."""
        raise TypeError(f"nothing of {self.name} can be merged")

    def groups(self, weights: dict[str, Any], adapter: Adapter) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser; `ratio` multiplies the run's learning rate."""
        return [{"params": list(weights.values()), "ratio": 1.0}]

    def updates(self, tensors: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Of the saved tensors, those that are zero as long as nothing was learnt."""
        return tensors
