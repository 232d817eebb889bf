"""A stored adapter is loaded on its base only, with its own template and rules."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from pipeline.config.schema import Config
from pipeline.model import adapter as adapters
from pipeline.model.base import resolve
from pipeline.model.run_base import RunBase
from pipeline.prompt.stage import encoder_of
from pipeline.run.errors import UserError
from pipeline.store.folder import Store
from pipeline.store.load import add_adapters, open_stored, verified_record, write_record
from tests.helpers.store_files import edit
from tests.helpers.stored_adapters import change_record, plain, put
from tests.helpers.tiny import make_config


def test_another_base(lora_store: Store, config: Config, tmp_path: Path, base: Path) -> None:
    other = Path(shutil.copytree(base, tmp_path / "base"))
    tensors = load_file(other / "model.safetensors")
    name = next(iter(tensors))
    tensors[name].view(-1)[0] += 1e-3  # one number
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    changed = make_config(tmp_path, other)
    with pytest.raises(UserError, match="another base"):
        open_stored(RunBase.of(changed, resolve(changed.model)), lora_store, "one")
    same = make_config(tmp_path, Path(shutil.copytree(base, tmp_path / "elsewhere")))
    open_stored(RunBase.of(same, resolve(same.model)), lora_store, "one")


def test_other_template_and_tokenizer(lora_store: Store, base: Path, tmp_path: Path) -> None:
    changed = make_config(tmp_path, base, "prompt.template=alpaca")
    with pytest.raises(UserError, match="alpaca-short"):
        open_stored(RunBase.of(changed, resolve(changed.model)), lora_store, "one")
    added = make_config(tmp_path, base, 'model.add_tokens=["[PAD]"]')
    with pytest.raises(UserError, match="tokenizer"):
        open_stored(RunBase.of(added, resolve(added.model)), lora_store, "one")


def test_an_adapter_brings_its_own_rules(lora_store: Store, config: Config, base: Path, tmp_path: Path) -> None:
    """Which token opens a row, and how prompt and answer are joined; what rows are read with stays the config's."""
    store = Store(tmp_path / "adapters")
    put(store, "mine", make_config(tmp_path, base, "prompt.bos=<s>", "prompt.join=joint", "prompt.cutoff=50"), 1)
    own = encoder_of(config.prompt, base, config.model.add_tokens)
    assert own.prompt("Hi")[0] != 1
    _, encoder = open_stored(RunBase.of(config, resolve(config.model)), store, "mine")
    assert encoder.prompt("Hi") == [1, *own.prompt("Hi")]
    assert (encoder.prompt_config.join, encoder.prompt_config.cutoff) == ("joint", 200)
    change_record(store, "mine", prompt={"bos": "<s>"})
    with pytest.raises(UserError, match="mine is damaged"):
        open_stored(RunBase.of(config, resolve(config.model)), store, "mine")


def test_files_other_than_were_put_in(store_copy: Store) -> None:
    record = store_copy.record("one")
    path = store_copy.folder("one") / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors[next(iter(tensors))] *= 2
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="not the file"):
        verified_record(store_copy, "one", record["base"]["hash"], record["tokenizer"])


@pytest.mark.parametrize("mixed", [False, True])
def test_a_large_rank_on_paper_takes_no_memory(
    store_copy: Store, config: Config, mixed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tensor of 16,384 by 1 stands for the rank, so a file of 64 kB asks for gigabytes on a large base."""
    folder, record = store_copy.folder("one"), store_copy.record("one")
    edit(r=16384, target_modules=["q_proj", "v_proj", "down_proj"])(folder)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({name: torch.ones(16384, 1)}, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    write_record(folder, {k: v for k, v in record.items() if k not in ("files", "kept")})
    filled: list[torch.Tensor] = []
    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", lambda layer: filled.append(layer.weight))

    def opened() -> Any:
        if mixed:
            return add_adapters(plain(Path(config.model.base)), store_copy, ["two", "one"])
        return open_stored(RunBase.of(config, resolve(config.model)), store_copy, "one")

    with pytest.raises(UserError, match="fit this base"):
        opened()
    large = [tensor for tensor in filled if 16384 in tensor.shape]
    assert len(large) == 12  # two factors, three layers, two blocks
    assert all(tensor.is_meta for tensor in large)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("more", [{}, {"use_dora": True}, {"trainable_token_indices": {"embed_tokens": [5]}}])
def test_an_adapter_is_not_rounded_to_its_base(
    config: Config, tmp_path: Path, mixed: bool, more: dict[str, Any]
) -> None:
    """An adapter in float32 on a base in bf16 stays what it is."""
    store = Store(tmp_path / "adapters")
    put(store, "mine", config, 1, **more)
    model = plain(Path(config.model.base)).bfloat16()
    model = add_adapters(model, store, ["mine"]) if mixed else adapters.load(model, store.folder("mine"))
    found = get_peft_model_state_dict(model, adapter_name="a0" if mixed else "default", save_embedding_layers=False)
    wanted = load_file(store.folder("mine") / "adapter_model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    assert not any(parameter.is_meta for parameter in model.parameters())
