"""The models that a chat can talk to: the run's export, its base, and the adapters of the store on this base.

export     merged checkpoint (or base + exported adapter)      loaded when it is first asked for
base    ┐
korean  ├─ one base in memory with LoRA adapters; peft switches between them
maths   ┘
others     adapters that are no plain LoRA, on a base that is loaded when one is asked for
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from pipeline.config.adapter_name import BASE
from pipeline.config.schema import Config
from pipeline.evaluation.shots import Shots, shots_from
from pipeline.model import adapter as adapters
from pipeline.model import hf_tokenizer
from pipeline.model.base import Base, resolve
from pipeline.model.exported import export_dtype, export_encoder, exported_model, free_memory
from pipeline.model.load import context_length
from pipeline.model.memory import available_bytes
from pipeline.model.methods.through_peft import add_adapter
from pipeline.model.run_base import RunBase
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.run.errors import UserError
from pipeline.run.files import readable_size
from pipeline.run.folder import Run
from pipeline.run.next_command import next_command
from pipeline.run.progress import working
from pipeline.serving.mixed import mixing_problem
from pipeline.store.folder import Store
from pipeline.store.load import encoder_of_record, verified_record
from pipeline.store.untrusted import inspect

EXPORT = "export"
SPARE = 1.2  # times the size of a model: memory for a second one, and for what it computes


@dataclass(frozen=True)
class ChatModel:
    """A model that is ready to answer.

    Attributes:
        name: `export`, `base` or an adapter's name.
        encoder: encodes prompts as in training. tokenizer: of transformers, decodes streamed answers.
        shots: training rows in front of each question. is_unfinished: its answers may not end by themselves.
    """

    name: str
    model: Any
    encoder: AnyEncoder
    tokenizer: Any
    shots: Shots | None = None
    is_unfinished: bool = False


@dataclass
class ChatModels:
    """Loads models by name and keeps what several of them share.

    Attributes:
        run: whose export can be asked for. files: the base on disk; None: looked for when it is needed.
        current: the model that was opened last.
    """

    config: Config
    store: Store
    run: Run
    files: Base | None = None
    current: ChatModel | None = None
    _export: ChatModel | None = None
    _alone: ChatModel | None = None  # the latest adapter that shares no base
    _shared: Any = None  # the base, or a PeftModel with adapters
    _peft_names: dict[str, str] = field(default_factory=dict)  # peft's names of adapters by their own

    def names(self) -> list[str]:
        """What can be asked for, as far as it is known without loading."""
        try:
            stored = self.store.names()
        except UserError:
            stored = []
        return [*([EXPORT] if self._has_export else []), BASE, *(name for name in stored if name != EXPORT)]

    def open(self, name: str) -> ChatModel:
        """The model of a name, which becomes `current`; after an error that is the earlier one, ready to answer.

        Raises:
            UserError: no such model, damaged files, an adapter of another base or tokenizer, or too little memory for
                a second model.
        """
        before = self.current
        try:
            self.current = self._open(name)
        except BaseException:
            if before is not None:
                self.current = self._open(before.name)  # the shared base may have another adapter switched on
            raise
        return self.current

    def _open(self, name: str) -> ChatModel:
        if name == EXPORT:
            return self._open_export()
        return self._open_base() if name == BASE else self._open_adapter(name)

    @property
    def _has_export(self) -> bool:
        return (self.run.folder("export") / "suri.json").is_file()

    def _open_export(self) -> ChatModel:
        if self._export is not None:
            return self._export
        config, folder = self.config, self.run.folder("export")
        if not self._has_export:
            fix = f"`{next_command('export')}`"
            raise UserError("no suri.json in the folder: nothing was exported here", str(folder), fix)
        if self._loaded_models:  # otherwise the command has done this
            self.run.check("dataset", "export")
        encoder, record = export_encoder(config, self.run)

        def load() -> Any:
            return exported_model(folder, export_dtype(config.export, config.model), lambda: self._run_base)

        with working(f"chat: loading {folder}"):
            model, tokenizer, shots = self._load(load), hf_tokenizer.load(folder), None
        if record.get("holds") == "nothing":
            limit, room, count = context_length(model.config), config.chat.max_new_tokens, config.adapter.shots
            shots = shots_from(self.run.folder("dataset"), encoder, config.train.seed, limit, room, count)
        self._export = ChatModel(EXPORT, model, encoder, tokenizer, shots, bool(record.get("unfinished")))
        return self._export

    def _open_base(self) -> ChatModel:
        encoder = self._run_base.encoder
        with working("chat: loading the base"):
            model = self._shared_base()
        if self._peft_names:
            model.base_model.disable_adapter_layers()
        return ChatModel(BASE, model, encoder, hf_tokenizer.build(encoder, None))

    def _open_adapter(self, name: str) -> ChatModel:
        self.store.folder(name)  # an error that names the adapters there are
        if self._alone is not None and self._alone.name == name:
            return self._alone
        base, folder = self._run_base, self.store.folder(name)
        record = verified_record(self.store, name, base.fingerprint(), base.encoder.tokenizer.hash)
        encoder = encoder_of_record(base.encoder, record, name)
        tokenizer = hf_tokenizer.build(encoder, None)
        with working(f"chat: loading the adapter {name} and its base"):
            if not mixing_problem(inspect(folder), record["method"]):
                return ChatModel(name, self._with_adapter(name), encoder, tokenizer)
            model = self._load(lambda: adapters.load(base.load(), folder))
        self._alone = ChatModel(name, model, encoder, tokenizer)
        return self._alone

    def _with_adapter(self, name: str) -> Any:
        """The shared base with one adapter switched on."""
        model = self._shared_base()
        if name not in self._peft_names:
            # Not by its own name: peft's names are keys of a ModuleDict, where `train` would clash with a method.
            own = f"a{len(self._peft_names)}"
            before, self._shared = self._peft_names, None  # until it is known that nothing is left of a failure
            self._peft_names = {}
            self._shared = model = add_adapter(model, self.store.folder(name), own, f"the adapter {name}")
            self._peft_names = {**before, name: own}
        model.base_model.enable_adapter_layers()
        model.set_adapter(self._peft_names[name])
        return model.requires_grad_(False)

    def _shared_base(self) -> Any:
        if self._shared is None:
            self._shared = self._load(self._run_base.load)
        return self._shared

    def _load(self, load: Callable[[], Any]) -> Any:
        """Loads a model beside those that are in memory.

        Raises:
            UserError: memory is short.
        """
        free_memory()
        for model in self._loaded_models:
            needed = SPARE * sum(p.numel() * p.element_size() for p in model.parameters())
            free = available_bytes(next(model.parameters()).device)
            if needed > free:
                what = f"a second model needs {readable_size(int(needed))} of memory, and {readable_size(free)} is free"
                raise UserError(what, "", "end this chat and start one with ADAPTER=NAME")
        try:
            return load()
        except torch.cuda.OutOfMemoryError:
            short = UserError("the card's memory is too small for this model", "", "choose a smaller base")
        raise short

    @property
    def _loaded_models(self) -> list[Any]:
        owners = [self._export, self._alone]
        return [owner.model for owner in owners if owner] + ([self._shared] if self._shared is not None else [])

    @cached_property
    def _run_base(self) -> RunBase:
        return RunBase.of(self.config, self.files or resolve(self.config.model))
