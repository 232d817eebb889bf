"""The merge tensor by tensor: the bytes of a merge in memory and `save_pretrained`, for methods and types of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config.schema import Config
from pipeline.model import adapter as adapters
from pipeline.model.base.tensors import TensorFiles
from pipeline.model.load import cast, load_folder, read_shape
from pipeline.model.methods.own_form import OwnForm
from pipeline.model.precision import DTYPES
from pipeline.model.skeleton import Skeleton
from pipeline.release.shards import plan as planning
from pipeline.release.shards.layout import Layout
from pipeline.release.shards.plan import Plan, plan_of
from pipeline.release.shards.write import write_checkpoint
from pipeline.run.errors import UserError
from pipeline.run.files import read_json
from pipeline.run.folder import Run
from tests.helpers.methods import KINDS, adapter_of, moved, save, stock
from tests.helpers.tiny import make_base, make_config, run_to

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::RuntimeWarning:peft")

MERGED = ["lora", "lora dora", "lora rslora", "lora pissa", "lora olora", "ia3", "head", "norms", "full"]
LARGEST = "20KB"


class Tokenizer:
    size = 0


class Encoder:
    tokenizer = Tokenizer()


class Files:
    def __init__(self, folder: Path) -> None:
        self.folder = folder


class Base:
    """What a plan asks of a `RunBase`."""

    def __init__(self, folder: Path, kind: str, dtype: str) -> None:
        self.files, self.encoder, self.adapter = Files(folder), Encoder(), adapter_of(kind)
        self.model = type("Model", (), {"dtype": dtype, "quantize": "none"})()
        self.is_float32 = kind == "full"

    def fingerprint(self) -> str:
        return ""


def prepared(folder: Path, kind: str, **shape: Any) -> tuple[Path, Path]:
    """A base and a trained adapter for it."""
    base, adapter = folder / "base", folder / "adapter"
    stock(**shape).save_pretrained(base)
    adapter.mkdir()
    save(moved(adapters.attach(stock(**shape), adapter_of(kind), seed=1)), adapter)
    return base, adapter


def in_memory(base: Path, adapter: Path, kind: str, dtypes: tuple[str, str], out: Path) -> dict[str, bytes]:
    """The files of base + adapter merged by peft in float32 and saved by transformers."""
    method = adapters.method_of(adapter_of(kind))
    if kind == "full":
        model = load_folder(adapter, DTYPES[dtypes[1]])
    else:
        model = load_folder(base, DTYPES[dtypes[0]])
        if isinstance(method, OwnForm):
            model = cast(model, torch.float32)
        model = cast(adapters.load(model, adapter), torch.float32)
        model = cast(method.merge(model), DTYPES[dtypes[1]])
    model.save_pretrained(out, max_shard_size=LARGEST)
    return weights_of(out)


def by_shard(base: Path, adapter: Path, kind: str, dtypes: tuple[str, str], out: Path) -> dict[str, bytes]:
    plan = plan_of(Base(base, kind, dtypes[0]), adapter, dtypes[1])  # type: ignore[arg-type]
    assert isinstance(plan, Plan), plan
    out.mkdir()
    sums = write_checkpoint(out, plan.layout, plan.tensor)
    assert sum(path.stat().st_size for path in out.iterdir()) == plan.layout.size
    assert sums.keys() == plan.names.keys()
    return weights_of(out)


def weights_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("model")}


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    of = Layout.of
    monkeypatch.setattr(planning.Layout, "of", lambda *given: of(*given, LARGEST))


@pytest.mark.parametrize("dtypes", [("fp32", "fp32"), ("fp32", "bf16"), ("bf16", "fp32")])
@pytest.mark.parametrize("kind", MERGED)
def test_gives_the_bytes_of_a_merge_in_memory(kind: str, dtypes: tuple[str, str], tmp_path: Path) -> None:
    base, adapter = prepared(tmp_path, kind)
    wanted = in_memory(base, adapter, kind, dtypes, tmp_path / "memory")
    assert len(wanted) > 2  # several files and their index
    assert by_shard(base, adapter, kind, dtypes, tmp_path / "shards") == wanted


@pytest.mark.parametrize("kind", ["lora", "lora dora", "ia3", "head", "norms"])
@pytest.mark.parametrize(
    "shape",
    [{"tie_word_embeddings": True}, {"model_type": "gpt2"}, {"model_type": "qwen2"}, {"model_type": "gpt_neox"},
     {"model_type": "opt"}, {"model_type": "gemma2", "head_dim": 8}],
    ids=lambda shape: shape.get("model_type", "tied"),
)  # fmt: skip
def test_other_models(kind: str, shape: dict[str, Any], tmp_path: Path) -> None:
    """Tied heads, transposed weights, biases, and tensors that transformers renames."""
    base, adapter = prepared(tmp_path, kind, **shape)
    wanted = in_memory(base, adapter, kind, ("fp32", "fp32"), tmp_path / "memory")
    assert by_shard(base, adapter, kind, ("fp32", "fp32"), tmp_path / "shards") == wanted


def test_a_sum_in_bf16_is_rounded_once(tmp_path: Path) -> None:
    """Each number is the bf16 number nearest to the sum of W and B A in float32."""
    base, adapter = prepared(tmp_path, "lora")
    by_shard(base, adapter, "lora", ("bf16", "bf16"), tmp_path / "shards")
    name = "model.layers.1.mlp.up_proj"
    weight = load_file(base / "model.safetensors")[f"{name}.weight"].to(torch.bfloat16).float()
    factors = load_file(adapter / "adapter_model.safetensors")
    a, b = (factors[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    scale = adapter_of("lora").alpha / adapter_of("lora").r
    merged = TensorFiles(tmp_path / "shards").read(f"{name}.weight")
    assert torch.equal(merged, (weight + (b @ a) * scale).to(torch.bfloat16))
    assert not torch.equal(merged, weight.to(torch.bfloat16))


def test_a_base_without_the_prefix_of_its_decoder(tmp_path: Path) -> None:
    """GPT-2's own files name `h.0...`; the export names `transformer.h.0...`, as transformers does."""
    base, adapter = prepared(tmp_path, "lora", model_type="gpt2")
    path = base / "model.safetensors"
    tensors = load_file(path)
    save_file({name.removeprefix("transformer."): t for name, t in tensors.items()}, path, {"format": "pt"})
    wanted = in_memory(base, adapter, "lora", ("fp32", "fp32"), tmp_path / "memory")
    assert by_shard(base, adapter, "lora", ("fp32", "fp32"), tmp_path / "shards") == wanted


def test_what_is_merged_in_memory_says_why(tmp_path: Path) -> None:
    shape = {"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 1}
    stock(**shape).save_pretrained(tmp_path / "moe")
    assert "splits, joins or renames" in str(plan_of(Base(tmp_path / "moe", "lora", "fp32"), tmp_path, "fp32"))  # type: ignore[arg-type]
    tied = tmp_path / "tied"
    stock(tie_word_embeddings=True).save_pretrained(tied)
    tensors = load_file(tied / "model.safetensors")
    head = tensors["model.embed_tokens.weight"] + 1
    save_file({**tensors, "lm_head.weight": head}, tied / "model.safetensors", {"format": "pt"})
    assert "lm_head.weight is tied" in str(plan_of(Base(tied, "lora", "fp32"), tmp_path, "fp32"))  # type: ignore[arg-type]


def test_infinite_weights_stop_the_merge(tmp_path: Path) -> None:
    base, adapter = prepared(tmp_path, "lora")
    path = adapter / "adapter_model.safetensors"
    save_file({name: t * 1e20 for name, t in load_file(path).items()}, path)
    with pytest.raises(UserError, match=r"NaN or infinity in the tensor model\.layers"):
        by_shard(base, adapter, "lora", ("fp32", "fp32"), tmp_path / "shards")


@pytest.mark.parametrize("tied", [False, True])
def test_rows_of_new_tokens(tied: bool, tmp_path: Path) -> None:
    """A row of a new token is what training made of it, in embedding and head."""
    base = make_base(tmp_path / "base", tie_word_embeddings=tied)
    words = ("model.add_tokens=[<a>,<b>]", "train.max_steps=2", "eval.rows=1", "eval.prompts=[]")
    run = run_to(make_config(tmp_path, base, *words), "export", tmp_path)
    saved = {}
    for path in run.folder("export").glob("model*.safetensors"):
        saved |= load_file(path)
    trained = {n: t for n, t in load_file(run.folder("adapter") / "adapter_model.safetensors").items() if "tokens" in n}
    old = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    rows = len(old)
    assert torch.equal(saved["model.embed_tokens.weight"][:rows], old)
    assert ("lm_head.weight" in saved) is not tied
    assert len(trained) == (1 if tied else 2)
    for name, rows_of_tokens in trained.items():
        table = "lm_head.weight" if "lm_head" in name else "model.embed_tokens.weight"
        assert torch.equal(saved[table][rows:], rows_of_tokens)


def test_an_export_says_that_it_was_merged_in_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = {"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 1}
    base = make_base(tmp_path / "base", **shape)
    config = make_config(tmp_path, base, "train.max_steps=2", "eval.rows=1", "eval.prompts=[]")
    run = run_to(config, "export", tmp_path)
    assert "merged in memory, since transformers splits" in " ".join(capsys.readouterr().out.split())
    assert "in memory, since" in checks_of(run)["merge"]


def checks_of(run: Run) -> dict[str, str]:
    return dict(read_json(run.folder("export") / "suri.json")["checks"])


def test_the_skeleton_needs_no_weights(tmp_path: Path) -> None:
    stock(tie_word_embeddings=True).save_pretrained(tmp_path)
    skeleton = Skeleton(read_shape(str(tmp_path)), size=70)
    assert {p.device.type for p in skeleton.model.parameters()} == {"meta"}
    assert skeleton.tied() == {"lm_head.weight": "model.embed_tokens.weight"}
    assert skeleton.model.get_input_embeddings().weight.shape[0] == 70
    assert skeleton.blocks == ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "lm_head"]
    assert set(KINDS) >= set(MERGED)


def test_a_whole_run_is_merged_tensor_by_tensor(exported: tuple[Config, Run]) -> None:
    assert checks_of(exported[1])["reload"].startswith("stock transformers loads the export: all 21 tensors are")
