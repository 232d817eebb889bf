"""The adapter store: names that stay inside, adapters that stay as they are, files that are looked at before use."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from pipeline import stages
from pipeline.config.adapter_name import problem
from pipeline.config.load import load
from pipeline.config.schema import Config
from pipeline.model import adapter as adapters
from pipeline.model.base import resolve
from pipeline.model.fingerprint import fingerprint, settings_of
from pipeline.prompt.stage import encoder_of
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.terminal import safe
from pipeline.serving import chat as chatting
from pipeline.store.combine import combine
from pipeline.store.folder import Store, Unreadable
from pipeline.store.load import open_stored, side_by_side, verified, write_record
from pipeline.store.measure import measure_stored
from pipeline.store.table import detail, table
from pipeline.store.untrusted import check_numbers, inspect
from scripts import adapters as script
from scripts.chat import talk
from tests.helpers.shelf import plain, put
from tests.helpers.tiny import make_config

ROOT = Path(__file__).parents[2]
HOSTILE = [
    "", ".", "..", "...", "../x", "..\\x", "x/..", "/etc/passwd", "/", "\\", "a/b", "a\\b", "C:x", "C:\\x",
    "~", "~a", "$A", ".hidden", "a.b", "x.tmp", "-x", "_x", "--help", "a b", " a", "a ", "a\n", "a\tb",
    "a\x00b", "\x00", "a\x7f", "\x1b[2J", "a*", "a?", "a|b", "a;b", "a&b", "a'b", 'a"b', "a`b`", "a$(b)",
    "{a}", "%2e%2e%2fx", "a%00", "．．／x", "a／b", "a＼b", "a∕b", "a⁄b", "a⧸b", "a․․b", "a‥b", "a…b", "․", "。",
    "ａ", "ﬁ", "①", "ⅷ", "ª", "a\u202eb", "a\u202ab", "\u2066a", "a\u200bb", "a\u200db", "a\u2060b", "\ufeffa",
    "a\xadb", "a\u034fb", "a\u3164b", "a\u115fb", "a\xa0b", "a\u2028b", "a\u3000b", "é", "e\u0301", "а",
    "аdapter", "α", "日本", "ㄱ", "ﾡ", "ㅏ", "\u1112\u1161\u11ab", "\ud55c\u0323", "\U0001f642", "a\U000e0041",
    "\ud800", "a\udcff", "\U0010ffff", "con", "CON", "Nul", "com1", "LPT9", "aux", "prn", "base", "Base",
    "default", "none", "null", "true", "no", "all", "1", "0x10", "2024", "1e5",
    "a" * 65, "a" * 5000, "한" * 65,
]  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "deep" / "adapters")


@pytest.fixture
def spoilt(shelf: Store, tmp_path: Path) -> Store:
    """A copy, to be spoilt."""
    return Store(Path(shutil.copytree(shelf.root, tmp_path / "spoilt")))


def filled(store: Store, *names: str) -> None:
    """Adapters that are none: for what does not look inside."""
    for name in names:
        with store.writing(name) as folder:
            (folder / "weights").write_text(name)


def everything(folder: Path) -> dict[str, str]:
    """Path and hash of all files below a folder."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# Names


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leaves_the_store(store: Store, name: str) -> None:
    root = store.root.parents[1]
    (root / "x").mkdir()
    filled(store, "good")
    before = everything(root)
    for use in (store.folder, store.record, store.remove, store.check_free, lambda n: filled(store, n)):
        with pytest.raises(UserError) as caught:
            use(name)
        said = str(caught.value)
        assert "Traceback" not in said
        assert all(c.isprintable() or c == "\n" for c in said), ascii(said)
        assert len(said) < 400
    assert everything(root) == before
    assert {p.name for p in root.iterdir()} == {"x", "deep"}


@pytest.mark.parametrize(
    "name", ["maths", "A", "fr-2_b", "수학", "한국어-번역-2", "a" * 64, "힣" * 64, "train", "half", "keys"]
)
def test_good_names(store: Store, name: str) -> None:
    assert problem(name) == ""
    filled(store, name)
    assert store.names() == [name]
    assert store.folder(name).parent == store.root


def test_decomposed_hangul_says_how_to_type_it() -> None:
    assert "type it anew as 한글" in problem("\u1112\u1161\u11ab\u1100\u1173\u11af")


def test_letter_case_alone_is_no_difference(store: Store) -> None:
    filled(store, "Maths")
    with pytest.raises(UserError, match="differs from maths in letter case alone"):
        filled(store, "maths")
    with pytest.raises(UserError, match="differs"):
        store.check_free("MATHS", replace=True)
    with pytest.raises(UserError, match="no adapter is called maths") as caught:
        store.folder("maths")
    assert "did you mean Maths?" in caught.value.fix


@pytest.mark.parametrize("name", ["../x", "a／b", "", "con", "nulL"])
def test_commands_refuse_names_in_one_message(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADAPTERS", str(tmp_path / "adapters"))
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    for words in (["show"], ["remove"], ["keep"], ["measure"], ["combine"]):
        monkeypatch.setattr(sys, "argv", ["adapters", *words, name, *(["a=1"] if words == ["combine"] else [])])
        assert script.start() == 2
        said = capsys.readouterr().err
        assert said.count("suri:") == 1
        assert "name" in said
    assert list(tmp_path.iterdir()) == []
    if name:
        with pytest.raises(UserError, match=r"chat\.adapter"):
            load(ROOT / "configs" / "demo.yaml", [f"chat.adapter='{name}'"])


def test_links_out_of_the_store(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    filled(store, "good")
    (store.root / "link").symlink_to(outside)
    for use in (store.folder, store.record, store.remove, lambda n: store.check_free(n, replace=True)):
        with pytest.raises(UserError, match="link is a link or a file"):
            use("link")
    with pytest.raises(UserError, match="link or a file"):
        filled(store, "link")
    assert store.names() == ["good"]
    for hidden in (".new.tmp", ".good.old", ".lock"):
        place = store.root / hidden
        place.unlink(missing_ok=True)
        place.symlink_to(outside / "precious" if hidden == ".lock" else outside)
        for use in (lambda: filled(store, "new"), lambda: store.remove("good")):
            with pytest.raises(UserError, match="is a link: writing there would leave the store"):
                use()
        place.unlink()
    (store.root / "good" / "suri.json").symlink_to(outside / "precious")
    with pytest.raises(UserError, match="good has no record"):
        store.record("good")
    assert (outside / "precious").read_text() == "mine"


# Writing


def test_writing_is_whole_or_nothing(store: Store) -> None:
    filled(store, "one")
    with pytest.raises(ZeroDivisionError), store.writing("two") as folder:
        (folder / "weights").write_text(f"half{1 / 0}")
    with pytest.raises(UserError, match="has an adapter called one already") as caught:
        filled(store, "one")
    assert "REPLACE" in caught.value.fix
    with pytest.raises(ZeroDivisionError), store.writing("one", replace=True) as folder:
        (folder / "weights").write_text(f"half{1 / 0}")
    assert (store.folder("one") / "weights").read_text() == "one"
    with store.writing("one", replace=True) as folder:
        (folder / "weights").write_text("new")
    assert (store.folder("one") / "weights").read_text() == "new"
    assert {p.name for p in store.root.iterdir()} == {"one", ".lock"}
    store.remove("one")
    assert store.names() == []


def test_what_a_crash_leaves_is_put_right(store: Store) -> None:
    filled(store, "one", "two")
    os.replace(store.root / "one", store.root / ".one.old")  # killed between the two renames
    (store.root / ".three.tmp").mkdir()  # killed while writing
    with store.lock():
        pass
    assert store.names() == ["one", "two"]
    assert not (store.root / ".three.tmp").exists()


def test_store_in_use(store: Store, tmp_path: Path) -> None:
    filled(store, "one")
    with store.lock():
        made = subprocess.run(
            [sys.executable, "-m", "scripts.adapters", "remove", "one"],
            capture_output=True, text=True, cwd=ROOT, env={**os.environ, "ADAPTERS": str(store.root)},
        )  # fmt: skip
        assert made.returncode == 2
        assert f"the adapter store is in use by process {os.getpid()}" in made.stderr
        assert "Traceback" not in made.stderr
        for use in (lambda: filled(store, "two"), lambda: store.remove("one"), lambda: store.note("one", x=1)):
            with pytest.raises(UserError, match="store is in use"):
                use()
        assert store.names() == ["one"]  # who reads need not wait
    store.remove("one")


def test_a_place_that_cannot_be_written_names_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file is in the way") as caught:
        filled(Store(tmp_path / "file" / "adapters"), "one")
    assert "ADAPTERS=" in caught.value.fix


# Tasks in sequence


@pytest.fixture(scope="module")
def sequence(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One task kept, its outputs taken; then a second one trained and kept on the same base."""
    folder = tmp_path_factory.mktemp("sequence")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTERS", str(folder / "adapters"))
        store = Store.here()
        short = ("train.max_steps=2", "train.save_every=9", "train.eval_every=9", "data.sources.0.rows=40")
        first = make_config(folder, base, "name=first", *short)
        second = make_config(
            folder, base, "name=second", "adapter.r=2", "adapter.targets=[all-linear]", "train.seed=7", *short
        )
        script.keep_adapter(first, Run(folder / "first"), "first", False)
        found: dict[str, Any] = {"store": store, "folder": folder, "configs": (first, second)}
        found["before"] = (logits(first, store, "first"), everything(store.root / "first"))
        base_files = everything(base)
        script.keep_adapter(second, Run(folder / "second"), "둘째", False)
        found["after"] = (logits(first, store, "first"), everything(store.root / "first"))
        assert everything(base) == base_files
    return found


IDS = torch.arange(3, 43)[None]


@torch.inference_mode()
def logits(config: Config, store: Store, name: str) -> torch.Tensor:
    model, _ = open_stored(config, resolve(config.model), store, name)
    return model(input_ids=IDS).logits


def test_a_new_task_leaves_the_first_bit_identical(sequence: dict[str, Any]) -> None:
    (before, files), (after, files_after) = sequence["before"], sequence["after"]
    assert torch.equal(before, after)
    assert files == files_after
    assert set(files) >= {"adapter_model.safetensors", "adapter_config.json", "suri.json", "tokenizer.json"}
    with torch.inference_mode():
        alone = plain(Path(sequence["configs"][0].model.base))(input_ids=IDS).logits
    assert not torch.allclose(alone, after, atol=1e-4)  # it does something
    assert not torch.allclose(logits(sequence["configs"][1], sequence["store"], "둘째"), after, atol=1e-4)


def test_stock_peft_loads_what_is_stored(sequence: dict[str, Any]) -> None:
    config, store = sequence["configs"][0], sequence["store"]
    model = PeftModel.from_pretrained(plain(Path(config.model.base)), store.folder("first")).eval()
    with torch.inference_mode():
        assert torch.equal(model(input_ids=IDS).logits, sequence["after"][0])
    trained = Run(sequence["folder"] / "first").folder("adapter") / "adapter_model.safetensors"
    assert trained.read_bytes() == (store.folder("first") / "adapter_model.safetensors").read_bytes()


def test_the_record_says_what_the_adapter_is(sequence: dict[str, Any], base: Path) -> None:
    record = sequence["store"].record("first")
    config = sequence["configs"][0]
    encoder = encoder_of(config, base)
    wanted = {"name": base.name, "hash": fingerprint(config, resolve(config.model)), "commit": "", "quantize": "none"}
    assert record["base"] == wanted
    assert (record["template"]["hash"], record["tokenizer"]) == (encoder.template.hash, encoder.tokenizer.hash)
    assert (record["method"], record["rank"], record["run"], record["end_id"]) == ("lora", 4, "first", 2)
    assert record["trained_parameters"] == 2 * 4 * (32 + 32 + 32 + 16)  # two layers, r (in + out) of q and of v
    assert sequence["store"].record("둘째")["rank"] == 2


def test_the_table(
    sequence: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured by name on the other's rows, the numbers go into the record and the table; the weights stay."""
    store, (first, second) = sequence["store"], sequence["configs"]
    monkeypatch.setenv("ADAPTERS", str(store.root))
    weights = (store.folder("둘째") / "adapter_model.safetensors").read_bytes()
    for config in (first, second):
        found = script.measure_adapter(config, Run(sequence["folder"] / config.name), "둘째")
    kept = store.record("둘째")["results"]
    assert kept.keys() == {"first", "second"}
    assert kept["second"]["val"]["loss"] == found["val"]["loss"]
    assert "said" not in kept["second"]["val"]
    assert weights == (store.folder("둘째") / "adapter_model.safetensors").read_bytes()
    alone = script.measure_adapter(first, Run(sequence["folder"] / "first"), "base")
    assert alone["val"]["loss"] != kept["first"]["val"]["loss"]
    lines = table(store).splitlines()
    assert lines[0].split() == ["name", "method", "rank", "trained", "size", "base", "template", "results", "kept"]
    assert "lora" in lines[1]
    assert "896" in lines[1]
    assert "first 0.0%, second 0.0%" in lines[2]
    assert "prompt_no_input" in detail(store, "first")
    with pytest.raises(UserError, match="no adapter is called third"):
        script.measure_adapter(first, Run(sequence["folder"] / "first"), "third")


def test_results_of_an_adapter_that_was_replaced_meanwhile(
    sequence: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measuring takes minutes: what others do to the store in the meantime is neither lost nor mistaken."""
    store = Store(Path(shutil.copytree(sequence["store"].root, tmp_path / "adapters")))
    monkeypatch.setenv("ADAPTERS", str(store.root))
    first, found = sequence["configs"][0], {"val": {"loss": 1.0, "rows": 4}}
    files = store.record("first")["files"]
    store.note("first", results={})
    meanwhile: Callable[[], Any] = lambda: store.add_results("first", "other", found, files)  # noqa: E731
    monkeypatch.setattr("pipeline.store.measure.measure_stored", lambda *_: meanwhile() or found)
    script.measure_adapter(first, Run(sequence["folder"] / "first"), "first")
    assert store.record("first")["results"] == {"other": found, "first": found}
    store.note("first", results={})
    meanwhile = lambda: combine(store, "first", [("둘째", 1.0)], "cat", 0, 0.2, True) and None  # noqa: E731
    with pytest.raises(UserError, match="first was replaced while it was measured"):
        script.measure_adapter(first, Run(sequence["folder"] / "first"), "first")
    assert store.record("first")["results"] == {}


def test_chat_by_name_is_base_and_adapter(
    sequence: dict[str, Any], base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, first = sequence["store"], sequence["configs"][0]
    monkeypatch.setenv("ADAPTERS", str(store.root))
    monkeypatch.setattr("sys.stdin", io.StringIO("Name a colour.\n"))
    chosen = first.chat.model_copy(update={"adapter": "first", "max_new_tokens": 5})
    capsys.readouterr()
    talk(first.model_copy(update={"chat": chosen}), Run(sequence["folder"] / "nothing-exported"))
    said = capsys.readouterr().out.split(chatting.HELP, 1)[1]
    encoder = encoder_of(first, base)
    ids = encoder.prompt("Name a colour.")
    model = PeftModel.from_pretrained(plain(base), store.folder("first")).eval()
    with torch.inference_mode():
        made = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=5, do_sample=False)[0, len(ids) :]
    assert safe(encoder.tokenizer.decode(made.tolist())) in said
    assert not (sequence["folder"] / "nothing-exported").exists()


def test_measuring_is_in_the_form_of_the_adapter(sequence: dict[str, Any], base: Path, tmp_path: Path) -> None:
    """Another opening token than that of the run's rows: both loss and answers are as on rows with the adapter's."""
    store = Store(tmp_path / "adapters")
    first = sequence["configs"][0]
    other = make_config(tmp_path, base, "name=first", "train.max_steps=2", "data.sources.0.rows=40", "prompt.bos=<s>")
    put(store, "mine", other, 1)
    run = Run(tmp_path / "first")
    shutil.copytree(sequence["folder"] / "first" / "dataset", run.folder("dataset"))
    stages.bring_up_to_date(other, run, "tokens")
    wanted = measure_stored(other, run, resolve(other.model), store, "mine")
    found = measure_stored(first, Run(sequence["folder"] / "first"), resolve(first.model), store, "mine")
    assert found == wanted
    store.note("mine", prompt=first.value("prompt"))
    assert measure_stored(first, Run(sequence["folder"] / "first"), resolve(first.model), store, "mine") != wanted


def test_listing_needs_no_torch(sequence: dict[str, Any]) -> None:
    code = "import sys; from scripts import adapters as a; a.start(); print({'torch', 'peft'} & set(sys.modules))"
    env = {**os.environ, "ADAPTERS": str(sequence["store"].root)}
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env)
    assert "둘째" in made.stdout, made.stderr
    assert made.stdout.endswith("set()\n")


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda t: {n: torch.full_like(x, float("nan")) for n, x in t.items()}, "NaN or infinite"),
        (
            lambda t: {n: x * 0 if "lora_B" in n else x for n, x in t.items()},
            "all its updates are zero",
        ),
        (lambda t: {n: x for n, x in t.items() if "layers.0" in n}, "does not fit this base: .* tensors do not match"),
        (lambda t: {}, "holds no tensors"),
        (lambda t: {n: x.long() for n, x in t.items()}, "not a float"),
    ],
)
def test_keep_tries_the_adapter_first(
    sequence: dict[str, Any], tmp_path: Path, spoil: Callable[[Any], Any], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.release.keep import keep

    config = sequence["configs"][0]
    run = Run(Path(shutil.copytree(sequence["folder"] / "first", tmp_path / "first")))
    path = run.folder("adapter") / "adapter_model.safetensors"
    save_file(spoil(load_file(path)), path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=what):
        keep(config, run, resolve(config.model), Store(tmp_path / "adapters"), "first", False)
    assert not (tmp_path / "adapters").exists()


def test_a_run_without_an_adapter(sequence: dict[str, Any], tmp_path: Path) -> None:
    from pipeline.release.keep import keep

    run = Run(tmp_path / "full")
    config = sequence["configs"][0]
    with pytest.raises(UserError, match="the run has no adapter"):
        keep(config, run, resolve(config.model), Store(tmp_path / "adapters"), "full", False)


def test_nothing_trained_and_experts(sequence: dict[str, Any], base: Path, tmp_path: Path) -> None:
    from pipeline.release.keep import keep

    def kept(config: Config) -> None:
        keep(config, run, resolve(config.model), Store(tmp_path / "adapters"), "it", False)

    run = Run(Path(shutil.copytree(sequence["folder"] / "first", tmp_path / "first")))
    none = make_config(tmp_path, base, "adapter.method=none", "train.max_steps=0")
    with pytest.raises(UserError, match="nothing was trained, there is nothing to keep"):
        kept(none)
    # as peft writes it for a mixture of experts
    edit(target_parameters=["gate_up_proj", "down_proj"], alpha_pattern={r".*\.gate_up_proj": 16.0})(
        run.folder("adapter")
    )
    with pytest.raises(UserError, match="experts, which cannot be kept in the store yet") as caught:
        kept(sequence["configs"][0])
    assert "`make export` makes a checkpoint of it" in caught.value.fix


# Only what was put in, only on its base


def test_another_base(shelf: Store, config: Config, tmp_path: Path, base: Path) -> None:
    other = Path(shutil.copytree(base, tmp_path / "base"))
    tensors = load_file(other / "model.safetensors")
    name = next(iter(tensors))
    tensors[name].view(-1)[0] += 1e-3  # one number
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    changed = make_config(tmp_path, other)
    with pytest.raises(
        UserError, match=r"one was trained on another base: base \([0-9a-f]{12}\), this is [0-9a-f]{12}"
    ):
        open_stored(changed, resolve(changed.model), shelf, "one")
    same = make_config(tmp_path, Path(shutil.copytree(base, tmp_path / "elsewhere")))
    open_stored(same, resolve(same.model), shelf, "one")


def test_the_hash_of_a_base(base: Path, config: Config, tmp_path: Path) -> None:
    wanted = fingerprint(config, resolve(config.model))
    sharded = tmp_path / "sharded"
    plain(base).save_pretrained(sharded, max_shard_size="20KB")
    for file in base.glob("tokenizer*"):
        shutil.copy(file, sharded)
    assert len(list(sharded.glob("*.safetensors"))) > 1
    again = make_config(tmp_path, sharded)
    assert fingerprint(again, resolve(again.model)) == wanted
    whole = plain(base)
    with torch.no_grad():
        whole.model.layers[1].mlp.up_proj.weight *= 1.01
    whole.save_pretrained(tmp_path / "trained")
    shutil.copytree(sharded, tmp_path / "trained", dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("*.safetensors*", "config.json"))  # fmt: skip
    trained = make_config(tmp_path, tmp_path / "trained")
    assert fingerprint(trained, resolve(trained.model)) != wanted
    settings = json.loads((sharded / "config.json").read_text())
    (sharded / "config.json").write_text(json.dumps({**settings, "rms_norm_eps": 1e-3}))
    assert fingerprint(again, resolve(again.model)) != wanted
    shape = [make_config(tmp_path, base, "model.base=''", f"model.geometry={{model_type: llama, hidden_size: {n}}}",
                         f"model.tokenizer={base}") for n in (32, 64)]  # fmt: skip
    shape.append(make_config(tmp_path, base, "model.base=''", "model.geometry={model_type: llama, hidden_size: 32}",
                             f"model.tokenizer={base}", "train.seed=7"))  # fmt: skip
    assert len({fingerprint(c, resolve(c.model)) for c in shape}) == 3


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ({}, {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}),
        ({"rope_theta": 5000, "rope_scaling": None},
         {"rope_parameters": {"rope_theta": 5000.0, "rope_type": "default", "partial_rotary_factor": 1.0}}),
        ({"rope_theta": 5e3, "rope_scaling": {"type": "linear", "factor": 2}},
         {"rope_parameters": {"rope_theta": 5e3, "rope_type": "linear", "factor": 2.0}}),
        ({"model_type": "gemma3_text", "rope_theta": 5e5, "rope_local_base_freq": 7e3,
          "layer_types": ["full_attention"]},
         {"model_type": "gemma3_text", "rope_parameters": {
             "full_attention": {"rope_theta": 5e5, "rope_type": "default"},
             "sliding_attention": {"rope_theta": 7e3, "rope_type": "default"}}, "layer_types": ["full_attention"]}),
    ],
)  # fmt: skip
def test_settings_are_the_same_in_either_form(tmp_path: Path, older: dict[str, Any], newer: dict[str, Any]) -> None:
    """As transformers 4 and 5 write them."""
    found = []
    for name, values in (("4", older), ("5", newer)):
        (tmp_path / name).mkdir()
        shape = {"model_type": "llama", "num_hidden_layers": 1, **values}
        (tmp_path / name / "config.json").write_text(json.dumps(shape))
        found.append(settings_of(tmp_path / name))
    assert found[0] == found[1]
    rope = newer["rope_parameters"]
    assert found[0]["rope_parameters"] == {k: v for k, v in rope.items() if k != "partial_rotary_factor"}


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("llama", {"rope_theta": 5.0}),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        ("llama", {"hidden_act": "relu"}),
        ("gpt2", {"activation_function": "relu"}),
        ("mistral", {"sliding_window": 7}),
        ("gemma2", {"attn_logit_softcapping": 7.0}),
        ("gemma2", {"final_logit_softcapping": None}),
        ("gemma2", {"query_pre_attn_scalar": 7}),
        ("gemma2", {"hidden_activation": "relu"}),
        ("granite", {"residual_multiplier": 0.5}),
        ("granite", {"attention_multiplier": 0.5}),
        ("granite", {"embedding_multiplier": 0.5}),
        ("granite", {"logits_scaling": 0.5}),
        ("cohere", {"logit_scale": 0.5}),
        ("gpt_neox", {"rotary_pct": 0.5}),
        ("stablelm", {"partial_rotary_factor": 0.5}),
    ],
)
def test_settings_that_no_tensor_shows(tmp_path: Path, kind: str, changed: dict[str, Any]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": kind}))
    before = settings_of(tmp_path)
    assert None not in before.values()
    path.write_text(json.dumps({"model_type": kind, "transformers_version": "9", "use_cache": False}))
    assert settings_of(tmp_path) == before
    path.write_text(json.dumps({"model_type": kind, **changed}))
    assert settings_of(tmp_path) != before


def test_settings_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(UserError, match="cannot read the model's settings"):
        settings_of(tmp_path)


def test_other_template_and_tokenizer(shelf: Store, base: Path, tmp_path: Path) -> None:
    changed = make_config(tmp_path, base, "prompt.template=alpaca")
    with pytest.raises(UserError, match=r"trained with template [0-9a-f]{16} .alpaca-short., the config names"):
        open_stored(changed, resolve(changed.model), shelf, "one")
    added = make_config(tmp_path, base, 'model.add_tokens=["[PAD]"]')
    with pytest.raises(UserError, match=r"trained with tokenizer [0-9a-f]{16}, this is"):
        open_stored(added, resolve(added.model), shelf, "one")


def test_an_adapter_brings_its_own_rules(shelf: Store, config: Config, base: Path, tmp_path: Path) -> None:
    """Which token opens a row, and how prompt and answer are joined; what rows are read with stays the config's."""
    store = Store(tmp_path / "adapters")
    put(store, "mine", make_config(tmp_path, base, "prompt.bos=<s>", "prompt.join=joint", "prompt.cutoff=50"), 1)
    own = encoder_of(config, base)
    assert own.prompt("Hi")[0] != 1
    _, encoder = open_stored(config, resolve(config.model), store, "mine")
    assert encoder.prompt("Hi") == [1, *own.prompt("Hi")]
    assert (encoder.prompt_config.join, encoder.prompt_config.cutoff) == ("joint", 200)
    store.note("mine", prompt={"bos": "<s>"})
    with pytest.raises(UserError, match="record of the adapter mine is damaged"):
        open_stored(config, resolve(config.model), store, "mine")


def test_files_other_than_were_put_in(spoilt: Store) -> None:
    record = spoilt.record("one")
    path = spoilt.folder("one") / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors[next(iter(tensors))] *= 2
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="is not the file that was put into the store"):
        verified(spoilt, "one", record["base"]["hash"], record["tokenizer"])


def edit(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def weights_of(data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "adapter_model.safetensors").write_bytes(data) and None


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def linked(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder.parent / "outside")
    (folder / "adapter_model.safetensors").symlink_to(folder.parent / "outside")


def cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


UNSAFE: list[tuple[Callable[[Path], Any], str]] = [
    (edit(peft_type="XLORA"), "of the kind 'XLORA', known are"),
    (edit(peft_type=None), "of the kind 'None'"),
    (edit(auto_mapping={"base_model_class": "x", "parent_library": "os"}), "sets 'auto_mapping'"),
    (edit(megatron_config={"a": 1}), "sets 'megatron_config'"),
    (edit(megatron_core="evil.module"), "sets 'megatron_core'"),
    (edit(tokenizer_kwargs={"trust_remote_code": True}), "sets 'tokenizer_kwargs'"),
    (edit(trust_remote_code=True), "sets 'trust_remote_code'"),
    (edit(loftq_config={"loftq_bits": 4}), "sets 'loftq_config'"),
    (edit(target_parameters=["weight"]), "sets 'target_parameters'"),
    (edit(bias="all"), "sets 'bias'"),
    (edit(init_lora_weights="pissa"), "init_lora_weights holds 'pissa'"),
    (edit(init_lora_weights="corda"), "init_lora_weights holds"),
    (edit(target_modules="(a+)+$"), "target_modules holds"),
    (edit(target_modules=["q_proj", "(a+)+$"]), "target_modules holds"),
    (edit(rank_pattern={"(a+)+$": 4}), "rank_pattern holds"),
    (edit(r=10**9), "r holds '1000000000'"),
    (edit(r=-1), "r holds '-1'"),
    (edit(r="4"), "r holds '4'"),
    (edit(r=True), "r holds 'True'"),
    (edit(r=16384), "speaks of 16,384 numbers where"),
    (edit(rank_pattern={"q_proj": 9999}), "speaks of 9,999 numbers where"),
    (edit(lora_alpha=float("nan")), "lora_alpha holds 'nan'"),
    (lambda f: (f / "adapter_config.json").write_text("{" * 100_000), "adapter_config.json is damaged"),
    (lambda f: (f / "adapter_config.json").write_text("[]"), "adapter_config.json is damaged"),
    (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json is missing"),
    (lambda f: (f / "adapter_model.safetensors").unlink(), "adapter_model.safetensors is missing"),
    (weights_of(b""), "adapter_model.safetensors is empty"),
    (weights_of(b"\x80\x04garbage that is no header at all"), "damaged: it has no safetensors header"),
    (weights_of(struct.pack("<Q", 1 << 60) + b"{}"), "no safetensors header"),
    (weights_of(struct.pack("<Q", 8) + b'{"a": 1}'), "header is not readable"),
    (weights_of(struct.pack("<Q", 2) + b"{}"), "holds no tensors"),
    (cut, "damaged: .* bytes, .* by its header"),
    (pickled, "is a pickle, which can run code"),
    (lambda f: (f / "x.pkl").write_bytes(b""), "is a pickle"),
    (linked, "is not a plain file: refused"),
    (lambda f: (f / "folder").mkdir(), "is not a plain file: refused"),
]


@pytest.mark.parametrize(("spoil", "what"), UNSAFE)
def test_nothing_unsafe_is_read(spoilt: Store, spoil: Callable[[Path], Any], what: str) -> None:
    inspect(spoilt.folder("one"))
    spoil(spoilt.folder("one"))
    with pytest.raises(UserError, match=what):
        inspect(spoilt.folder("one"))
    record = spoilt.record("two")
    verified(spoilt, "two", record["base"]["hash"], record["tokenizer"])  # the others are as before


@pytest.mark.parametrize("mixed", [False, True])
def test_a_large_rank_on_paper_takes_no_memory(
    spoilt: Store, config: Config, mixed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tensor of 16,384 by 1 stands for the rank, so a file of 64 kB asks for gigabytes on a large base."""
    folder, record = spoilt.folder("one"), spoilt.record("one")
    edit(r=16384, target_modules=["q_proj", "v_proj", "down_proj"])(folder)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({name: torch.ones(16384, 1)}, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    write_record(folder, {k: v for k, v in record.items() if k not in ("files", "kept")})
    filled: list[torch.Tensor] = []
    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", lambda layer: filled.append(layer.weight))

    def opened() -> Any:
        if mixed:
            return side_by_side(plain(Path(config.model.base)), spoilt, ["two", "one"])
        return open_stored(config, resolve(config.model), spoilt, "one")

    with pytest.raises(UserError, match="does not fit this base"):
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
    model = side_by_side(model, store, ["mine"]) if mixed else adapters.load(model, store.folder("mine"))
    found = get_peft_model_state_dict(model, adapter_name="a0" if mixed else "default", save_embedding_layers=False)
    wanted = load_file(store.folder("mine") / "adapter_model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_a_form_that_peft_has_not(spoilt: Store) -> None:
    path = spoilt.folder("one") / "adapter_config.json"
    own = {"suri_method": "houlsby", "adapter": {"bottleneck": 64}, "base_model_name_or_path": "x/y"}
    path.write_text(json.dumps(own))
    assert inspect(path.parent) == own
    for more in ({"peft_type": None, "auto_mapping": {"a": "b"}}, {"adapter": {"x": {"y": 1}}}, {"suri_method": "a b"}):
        path.write_text(json.dumps({**own, **more}))
        with pytest.raises(UserError, match="not safe to load"):
            inspect(path.parent)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"method": "lora"}', '{"a": ' * 50_000])
def test_a_damaged_record_hides_no_other(spoilt: Store, text: str) -> None:
    (spoilt.root / "two" / "suri.json").write_text(text)
    with pytest.raises(UserError, match="two is damaged"):
        spoilt.record("two")
    lines = table(spoilt).splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [["one", "lora"], ["three", "lora"], ["two", "damaged"]]


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Rights mean nothing to root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def open_to_all(shelf: Store) -> Iterator[Store]:
    """A copy where others may look in, too: pytest's folders are their owner's alone."""
    folder = Path(tempfile.mkdtemp())
    try:
        store = Store(Path(shutil.copytree(shelf.root, folder / "adapters")))
        for path in (folder, store.root, *store.root.iterdir()):
            path.chmod(0o755)
        yield store
        store.root.chmod(0o755)
        (store.root / "one").chmod(0o755)
    finally:
        shutil.rmtree(folder)


def test_what_may_not_be_read(open_to_all: Store) -> None:
    """A folder, a record, weights, the whole store: named, and the rest is as before."""
    store = open_to_all
    (store.root / "one").chmod(0)
    (store.root / "two" / "suri.json").chmod(0)
    (store.root / "three" / "adapter_model.safetensors").chmod(0)
    with as_nobody():
        lines = table(store).splitlines()
        for name in ("one", "two"):
            with pytest.raises(Unreadable, match="cannot be read: Permission denied"):
                detail(store, name)
        with pytest.raises(Unreadable, match="cannot be read"):
            inspect(store.root / "three")
        for use in (lambda: store.remove("one"), lambda: store.note("two", x=1)):
            with pytest.raises(UserError, match=r"no rights|cannot be read|cannot write"):
                use()
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["one", "unreadable"],
        ["three", "lora"],
        ["two", "unreadable"],
    ]
    assert lines[4] == "one: cannot be read: Permission denied"
    assert store.names() == ["one", "three", "two"]
    store.root.chmod(0)
    with as_nobody():
        for use in (lambda: table(store), lambda: store.folder("one"), lambda: store.lock().__enter__()):
            with pytest.raises(UserError, match="cannot be read") as caught:
                use()
            assert "ADAPTERS=" in caught.value.fix


def test_a_record_of_many_layers(spoilt: Store) -> None:
    """JSON reads what YAML's printer cannot show."""
    deep: Any = 1
    for _ in range(400):
        deep = {"a": [deep]}
    spoilt.note("one", results=spoilt.record("two"))
    assert "results:" in detail(spoilt, "one")
    path = spoilt.root / "one" / "suri.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "more": deep}))
    with pytest.raises(UserError, match="one is damaged"):
        detail(spoilt, "one")


def test_a_record_from_elsewhere_draws_nothing_on_the_terminal(spoilt: Store) -> None:
    record = spoilt.record("one")
    spoilt.note("one", method="\x1b[2Jlora\u202e", base={**record["base"], "name": "x\n" * 100})
    for text in (table(spoilt), detail(spoilt, "one")):
        assert all(c.isprintable() or c == "\n" for c in text)
    assert len(table(spoilt).splitlines()) == 4


# Weighted sums


def update(folder: Path, base: Path) -> dict[str, torch.Tensor]:
    """What stock peft adds to each layer."""
    model = PeftModel.from_pretrained(plain(base), folder)
    layers = {name: m for name, m in model.named_modules() if hasattr(m, "get_delta_weight")}
    return {name: m.get_delta_weight("default").double() for name, m in layers.items()}


def total(shelf: Store, base: Path, shares: dict[str, float]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name, weight in shares.items():
        for layer, delta in update(shelf.folder(name), base).items():
            found[layer] = found.get(layer, 0) + weight * delta
    return found


SHARES = {"one": 0.7, "two": -0.3, "three": 1.5}


def test_cat_is_exact(spoilt: Store, base: Path, config: Config) -> None:
    """Other ranks, other layers, another scale, a negative weight: what peft loads is the weighted sum."""
    combine(spoilt, "sum", list(SHARES.items()), "cat", 0, 0.2, False)
    wanted, found = total(spoilt, base, SHARES), update(spoilt.folder("sum"), base)
    assert wanted.keys() == found.keys()
    assert len(wanted) == 6  # q, v and o of two layers
    for layer, delta in wanted.items():
        assert torch.allclose(found[layer], delta, rtol=0, atol=1e-6)
    record = spoilt.record("sum")
    assert (record["rank"], record["combined"]) == (9, {"of": SHARES, "how": "cat", "kept": 1.0})
    model, _ = open_stored(config, resolve(config.model), spoilt, "sum")
    by_hand = plain(base)
    with torch.no_grad():
        for layer, delta in wanted.items():
            by_hand.get_submodule(layer.removeprefix("base_model.model.")).weight += delta.float()
        assert torch.allclose(model(input_ids=IDS).logits, by_hand(input_ids=IDS).logits, atol=1e-5)


def test_cat_where_the_first_is_an_rslora(spoilt: Store, base: Path) -> None:
    """peft's own add_weighted_adapter is off by sqrt(r) here."""
    combine(spoilt, "sum", [("three", 1.0), ("one", -2.0)], "cat", 0, 0.2, False)
    found = update(spoilt.folder("sum"), base)
    for layer, delta in total(spoilt, base, {"three": 1.0, "one": -2.0}).items():
        assert torch.allclose(found[layer], delta, rtol=0, atol=1e-6)


def test_svd_is_the_best_of_its_rank(spoilt: Store, base: Path) -> None:
    about = combine(spoilt, "sum", list(SHARES.items()), "svd", 3, 0.2, False)
    wanted, found = total(spoilt, base, SHARES), update(spoilt.folder("sum"), base)
    lost = whole = 0.0
    for layer, delta in wanted.items():
        left, values, right = torch.linalg.svd(delta)
        best = left[:, :3] * values[:3] @ right[:3]
        assert torch.allclose(found[layer], best, rtol=0, atol=1e-5)
        lost, whole = lost + float(values[3:].square().sum()), whole + float(values.square().sum())
    assert about["kept"] == pytest.approx(1 - lost / whole, abs=1e-4)
    assert 0.3 < about["kept"] < 1
    full = combine(spoilt, "whole", list(SHARES.items()), "svd", 9, 0.2, False)
    assert full["kept"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("how", "theirs"), [("cat", "cat"), ("svd", "svd"), ("ties", "ties_svd")])
def test_as_peft_adds_them(spoilt: Store, base: Path, how: Any, theirs: str) -> None:
    shares = {"one": 0.7, "two": 0.4}
    combine(spoilt, "sum", list(shares.items()), how, 4, 0.5, False)
    model = side_by_side(plain(base), spoilt, list(shares))
    model.add_weighted_adapter(["a0", "a1"], list(shares.values()), "sum", theirs, svd_rank=4, density=0.5)
    for layer, found in update(spoilt.folder("sum"), base).items():
        wanted = model.get_submodule(layer).get_delta_weight("sum")
        assert torch.allclose(found.float(), wanted, rtol=0, atol=1e-5), layer


@pytest.mark.parametrize("how", ["cat", "svd", "ties", "dare"])
def test_a_weight_of_zero_is_no_part(spoilt: Store, base: Path, how: Any) -> None:
    """Nor has it a vote on signs, or a say in the rank."""
    about = combine(spoilt, "sum", [("two", 1.0), ("one", 0.0)], how, 0, 1.0, False)
    assert about["of"] == {"two": 1.0}
    assert spoilt.record("sum")["rank"] == 3
    wanted, found = update(spoilt.folder("two"), base), update(spoilt.folder("sum"), base)
    assert wanted.keys() == found.keys()
    assert all(torch.allclose(found[layer], delta, rtol=0, atol=1e-5) for layer, delta in wanted.items())


def test_ties_with_a_negative_weight(spoilt: Store, base: Path) -> None:
    """The turned update votes: where the two agree, the mean of both; elsewhere the larger one alone."""
    combine(spoilt, "sum", [("one", 2.0), ("three", -1.5)], "ties", 32, 1.0, False)
    one, three = (update(spoilt.folder(name), base) for name in ("one", "three"))
    found = update(spoilt.folder("sum"), base)
    for layer, delta in found.items():
        mine, theirs = one[layer], -three[layer]
        alone = torch.where(mine.abs() > theirs.abs(), 2 * mine, 1.5 * theirs)
        wanted = torch.where(mine.sign() == theirs.sign(), (2 * mine + 1.5 * theirs) / 2, alone)
        assert torch.allclose(delta, wanted, rtol=0, atol=1e-4)


def test_dare_keeps_the_mean_and_repeats_itself(spoilt: Store, base: Path) -> None:
    combine(spoilt, "a", [("one", 1.0)], "dare", 32, 0.5, False)
    combine(spoilt, "b", [("one", 1.0)], "dare", 32, 0.5, False)
    a, b, whole = (update(spoilt.folder(name), base) for name in ("a", "b", "one"))
    for layer, delta in whole.items():
        assert torch.equal(a[layer], b[layer])
        dropped = a[layer].abs() < 1e-5
        assert 0.4 < dropped.double().mean() < 0.6
        assert torch.allclose(a[layer][~dropped], 2 * delta[~dropped], atol=1e-4)


def test_what_cannot_be_added_up(spoilt: Store, config: Config, base: Path, tmp_path: Path) -> None:
    put(spoilt, "dora", config, 4, use_dora=True)
    put(spoilt, "tokens", config, 5, trainable_token_indices={"embed_tokens": [5]})
    put(spoilt, "other", make_config(tmp_path, base, "prompt.template=alpaca"), 6)
    put(spoilt, "bos", make_config(tmp_path, base, "prompt.bos=<s>"), 7)
    put(spoilt, "joint", make_config(tmp_path, base, "prompt.join=joint"), 8)
    spoilt.note("three", base={"name": "other", "hash": "0" * 64})
    for name, what in (
        ("bos", r"one and bos have different values of prompt.bos \(auto and <s>\)"),
        ("joint", r"one and joint have different values of prompt.join \(apart and joint\)"),
        ("dora", "dora is not a plain LoRA"),
        ("tokens", "tokens holds more than a LoRA"),
        ("other", "one and other have different templates"),
        ("three", "one and three have different bases"),
        ("four", "no adapter is called four"),
    ):
        with pytest.raises(UserError, match=what):
            combine(spoilt, "sum", [("one", 1.0), (name, 1.0)], "cat", 0, 0.2, False)
    with pytest.raises(UserError, match="has an adapter called two already"):
        combine(spoilt, "two", [("one", 1.0)], "cat", 0, 0.2, False)
    with pytest.raises(UserError, match="nothing is left to combine: one=0, two=0"):
        combine(spoilt, "sum", [("one", 0.0), ("two", 0.0)], "cat", 0, 0.2, False)
    with pytest.raises(UserError, match=r"it is 0 in every layer \(one=1, by ties\)"):
        combine(spoilt, "sum", [("one", 1.0)], "ties", 0, 1e-9, False)
    assert "sum" not in spoilt.names()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["sum"], "no adapters to combine"),
        (["sum", "one"], "'one' has no weight"),
        (["sum", "one=x"], "one='x' is no number"),
        (["sum", "one=nan"], "is no number"),
        (["sum", "one=1", "one=2"], "stands there twice"),
        (["sum", "one=1", "--how", "mean"], "HOW='mean' is no way to combine"),
        (["sum", "one=1", "--rank", "-1"], "RANK='-1' is no number"),
        (["sum", "one=1", "--rank", "1.5"], "RANK is a whole number"),
        (["sum", "one=1", "--density", "0"], "DENSITY a share above 0"),
        (["sum", "../x=1"], "which an adapter's name cannot"),
    ],
)
def test_words_of_combine(
    shelf: Store, words: list[str], what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADAPTERS", str(shelf.root))
    monkeypatch.setattr(sys, "argv", ["adapters", "combine", *words])
    assert script.start() == 2
    assert what in capsys.readouterr().err
    assert shelf.names() == ["one", "three", "two"]


def test_numbers(shelf: Store, tmp_path: Path) -> None:
    check_numbers(shelf.folder("one"))
    assert LoraConfig.from_pretrained(str(shelf.folder("three"))).use_rslora
