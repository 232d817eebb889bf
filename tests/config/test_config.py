"""The config: one strict reader, and messages that a stranger can act on."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from pipeline.cli.main import start
from pipeline.config.load import contradictions, dump, load
from pipeline.config.schema import Benchmark, Config, Source
from pipeline.config.values import SYNONYMS
from pipeline.prompt.template import load as load_template
from pipeline.run.errors import UserError

BASE = "name: a\nmodel: {base: x}\n"
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def read(folder: Path, text: str, *overrides: str) -> Config:
    return load(write(folder, text), overrides)


def problems(folder: Path, text: str, *overrides: str) -> str:
    """The message that stops this config."""
    with pytest.raises(UserError) as caught:
        read(folder, text, *overrides)
    return str(caught.value)


def test_defaults(tmp_path: Path) -> None:
    config = read(tmp_path, BASE)
    assert config.name == "a"
    assert config.model.base == "x"
    assert config.prompt.template == "alpaca"
    assert config.train.lr == 2e-4
    assert config.adapter.targets == ("all-linear",)
    assert config.data.sources == ()
    assert config.value("train.lr") == 2e-4


@pytest.mark.parametrize(
    ("text", "number"),
    [("2e-5", 2e-5), ("2E-5", 2e-5), ("2.e-5", 2e-5), (".5e1", 5.0), ("1e0", 1.0), ("+3e-4", 3e-4), ("0", 0), ("3", 3)],
)
def test_numbers_in_any_spelling(tmp_path: Path, text: str, number: float) -> None:
    assert read(tmp_path, BASE + f"train: {{lr: {text}}}\n").train.lr == number
    assert read(tmp_path, BASE, f"train.lr={text}").train.lr == number


def test_an_integer_may_be_written_with_an_exponent(tmp_path: Path) -> None:
    assert read(tmp_path, BASE, "train.max_steps=1e3").train.max_steps == 1000


def test_words_that_yaml_takes_for_something_else_stay_words(tmp_path: Path) -> None:
    config = read(tmp_path, "name: no\nmodel: {base: 1:30, tokenizer: 2023-04-05}\nadapter: {targets: [on, off, y]}\n")
    assert config.name == "no"  # YAML 1.1 says False
    assert config.model.base == "1:30"  # YAML 1.1 says 90
    assert config.model.tokenizer == "2023-04-05"
    assert config.adapter.targets == ("on", "off", "y")


def test_a_leading_zero_is_not_octal(tmp_path: Path) -> None:
    assert read(tmp_path, BASE + "data: {seed: 010}\n").data.seed == 10


def test_a_switch_reads_no_as_no(tmp_path: Path) -> None:
    for word in ("no", "false", "False"):
        assert read(tmp_path, BASE + f"prompt: {{mask_prompt: {word}}}\n").prompt.mask_prompt is False
    assert "prompt.mask_prompt = 'nope'" in problems(tmp_path, BASE + "prompt: {mask_prompt: nope}\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modell: 3\n", ":3: unknown key modell; did you mean model?"),
        ("train:\n  lrr: 3\n", ":4: unknown key train.lrr; did you mean train.lr?"),
        ("lr: 3\n", ":3: unknown key lr; did you mean train.lr?"),
        ("train: {dropout: .1}\n", "unknown key train.dropout; did you mean adapter.dropout?"),
        ("data:\n  sources:\n    - path: a\n      limt: 3\n", ":6: unknown key data.sources[0].limt; did you mean"),
        ("zzzz: 3\n", "unknown key zzzz; there is name, model, data"),
        ("chat: {qqqq: 3}\n", "unknown key chat.qqqq; there is max_new_tokens, temperature"),
        ("1: 2\n", ":3: unknown key 1"),
        ("lora: {r: 8}\n", "unknown key lora; here it is adapter"),
        ("seed: 1\n", "unknown key seed; did you mean data.seed or train.seed or chat.seed or synthesis.seed?"),
        ("train: {lr: 2,5e-4}\n", "unknown key 0.0005; decimals take a point, not a comma"),
        ("learning_rate: 1\n", ":3: unknown key learning_rate; here it is train.lr"),
        ("train: {learning_rate: 1}\n", "unknown key train.learning_rate; here it is train.lr"),
        ("train: {load_best_model_at_end: true}\n", "here it is train.best"),
        ("train: {neftune_noise_alpha: 5}\n", "here it is train.neftune"),
        ("train: {patience: 3}\n", "here it is train.early_stop"),
        ("train: {fp16: true}\n", "here it is model.dtype"),
        ("cutoff_len: 256\n", "unknown key cutoff_len; here it is prompt.cutoff"),
        ("train_on_inputs: true\n", "here it is prompt.mask_prompt (the opposite)"),
        ("lora_target_modules: [q_proj]\n", "here it is adapter.targets"),
    ],
)
def test_unknown_keys_name_the_nearest(tmp_path: Path, text: str, said: str) -> None:
    assert said in problems(tmp_path, BASE + text)


def test_names_from_other_tools_lead_to_keys_that_exist() -> None:
    known = Config(name="a")
    for name in set(SYNONYMS.values()):
        known.value(name.split(" ")[0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: {batch_size: many}\n", "train.batch_size = 'many': expected a whole number"),
        ("train: {batch_size: 1.5}\n", "train.batch_size = 1.5: expected a whole number"),
        ("train: {batch_size: 0}\n", "train.batch_size = 0: must be at least 1"),
        ("train: {batch_size: true}\n", "train.batch_size = true: expected a number, found true/false"),
        ("train: {lr: -1e-4}\n", "train.lr = -0.0001: must be at least 0"),
        ("train: {lr: .nan}\n", "train.lr = nan: must be"),
        ("train: {lr: .inf}\n", "train.lr = inf: must be at most 1,000,000,000"),
        ("train: {lr: 1e999}\n", "train.lr = inf: must be at most 1,000,000,000"),
        ("train: {lr: false}\n", "train.lr = false: expected a number, found true/false"),
        ("train: {lr: }\n", "train.lr = empty: expected a number"),
        ("train: {gpu_memory: 8GB}\n", "train.gpu_memory = '8GB': expected a number without a unit"),
        ("train: {neftune: '5,0'}\n", "train.neftune = '5,0': expected a number; decimals take a point"),
        ("train: {best: 3}\n", "train.best = 3: expected true or false"),
        ("model: {base: x, geometry: llama}\n", "model.geometry = 'llama': expected a table, such as {a: 1}"),
        ("train: {epochs: 0}\n", "train.epochs = 0: must be above 0"),
        ("train: {schedule: cos}\n", "train.schedule = 'cos': must be 'cosine', 'linear' or 'constant'"),
        ("model: {base: x, quantize: no}\n", "model.quantize = 'no': must be 'none', 'int8', 'nf4' or 'fp8'"),
        ("adapter: {dropout: 1}\n", "adapter.dropout = 1: must be below 1"),
        ("adapter: {dropout: .nan}\n", "adapter.dropout = nan: must be"),
        ("adapter: {alpha: 0}\n", "adapter.alpha = 0: must be above 0"),
        (
            "data: {sources: [{path: a, weight: 5e-324}]}\n",
            "weight = 5e-324: must be at least",
        ),
        ("adapter: {targets: q_proj}\n", "adapter.targets = 'q_proj': expected a list, such as [q_proj]"),
        ("export: {min_eos: 1.5}\n", "export.min_eos = 1.5: must be at most 1"),
        ("prompt: {cutoff: 3}\n", "prompt.cutoff = 3: must be at least 4"),
        ("prompt: {template: ''}\n", "prompt.template = '': must not be empty"),
        ("data: {val: 2%}\n", "data.val = '2%': expected a share such as 0.02, or whole rows such as 200"),
        ("data: {val: -1}\n", "data.val = -1: must be at least 0"),
        ("data: {sources: [3]}\n", "data.sources[0] = 3: expected a table of keys (path, columns, subset, revision,"),
        ("data: {sources: [{limit: 3}]}\n", "data.sources[0].path is missing"),
        ("data: {sources: x.json}\n", "data.sources = 'x.json': expected a list, such as [{path: x.json}]"),
        ("eval: {prompts: [1]}\n", "eval.prompts[0] = 1: expected text; put it in quotes"),
        ("train: 5\n", "train = 5: expected a table of keys (batch_size, epochs"),
        ("train:\n", "train = empty: expected a table of keys (batch_size, epochs"),
        ("model: {geometry: {1: 2}}\n", "model.geometry[1] = 1: expected text"),
    ],
)
def test_wrong_values(tmp_path: Path, text: str, said: str) -> None:
    text = text if text.startswith("model:") else "model: {base: x}\n" + text
    message = problems(tmp_path, "name: a\n" + text)
    assert said in message
    assert f"{tmp_path / 'run.yaml'}:" in message


@pytest.mark.parametrize("name", ["''", "a/b", "..", ".hidden", "-x", "a b", "'a\n'", "é", "a" * 101, "7"])
def test_names_that_are_no_folder_names(tmp_path: Path, name: str) -> None:
    assert "name = " in problems(tmp_path, f"name: {name}\nmodel: {{base: x}}\n")


def test_all_problems_come_at_once_each_with_its_line(tmp_path: Path) -> None:
    text = "name: a\ntrain:\n  lr: fast\n  epohcs: 3\nprompt:\n  cutoff: 1\nname: b\n"
    message = problems(tmp_path, text, "adapter.r=0", "nonsense")
    path = tmp_path / "run.yaml"
    assert message.startswith("6 problems in the config:\n")
    for said in (
        f"{path}:3: train.lr = 'fast'",
        f"{path}:4: unknown key train.epohcs; did you mean train.epochs?",
        f"{path}:6: prompt.cutoff = 1",
        f"{path}:7: name is given twice (first in line 1)",
        "ARGS: adapter.r = 0",
        "ARGS: 'nonsense' is not key=value",
    ):
        assert f"\n  - {said}" in message


def test_duplicate_keys(tmp_path: Path) -> None:
    message = problems(tmp_path, "name: a\nmodel:\n  base: x\n  base: y\n")
    place = f"{tmp_path / 'run.yaml'}:4"
    assert message == f"1 problem in the config:\n  - {place}: model.base is given twice (first in line 3)"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("name: a\nmodel: {base: x\n", ":3:1"),
        ("name: a\n\tmodel: x\n", ":2:1"),
        ("name: 'a\n", ":2:1"),
        ("a: 1\n---\nb: 2\n", ":2:1"),
        ("[a, b]: 2\n", ":1:1"),
        ("a: *b\n", ":1:4"),
        ("a: !!python/object/apply:os.system [ls]\n", ":1:4"),
        ("a: \x01\n", ""),
        ("a: &a [*a]\n", ""),
        ("a: " + "[" * 1200, ""),
        ("a: " + "9" * 5000, ""),
    ],
)
def test_broken_yaml_is_named_with_its_line(tmp_path: Path, text: str, place: str) -> None:
    message = problems(tmp_path, text)
    assert message.startswith("not valid YAML: ")
    assert f"where: {tmp_path / 'run.yaml'}{place}" in message
    assert "fix:" in message


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "\ufeff", "{}\n"])
def test_an_empty_file_lacks_a_name(tmp_path: Path, text: str) -> None:
    assert "name is missing" in problems(tmp_path, text)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    assert read(tmp_path, "\ufeff" + BASE).name == "a"


@pytest.mark.parametrize(("text", "kind"), [("- a\n", "list"), ("hello\n", "single value"), ("3\n", "single value")])
def test_not_a_table(tmp_path: Path, text: str, kind: str) -> None:
    assert f"a config is a table of keys, this is a {kind}" in problems(tmp_path, text)


def test_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, BASE)
    with pytest.raises(UserError, match="no such config file") as caught:
        load(tmp_path / "runn.yaml")
    assert f"did you mean {tmp_path / 'run.yaml'}?" in str(caught.value)
    with pytest.raises(UserError, match="no such config file") as caught:
        load(tmp_path / "nowhere" / "run.yaml")
    assert "CONFIG=configs/NAME.yaml" in str(caught.value)
    with pytest.raises(UserError, match="no such config file"):
        load(tmp_path)


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"name: \xbe\xc8\n")
    with pytest.raises(UserError, match="not UTF-8 text"):
        load(path)


def test_overrides(tmp_path: Path) -> None:
    text = BASE + "data:\n  sources:\n    - path: a.json\n    - {path: b.json, limit: 5}\n"
    config = read(
        tmp_path, text, "train.lr=1e-4", "data.sources.0.limit=100", "data.sources.1.limit=null", "name=other",
        "adapter.targets=[q_proj, v_proj]", "prompt.bos=</s>", "eval.prompts=['a: b']", "model.tokenizer=",
    )  # fmt: skip
    assert config.train.lr == 1e-4
    assert [s.limit for s in config.data.sources] == [100, None]
    assert config.name == "other"
    assert config.adapter.targets == ("q_proj", "v_proj")
    assert config.prompt.bos == "</s>"
    assert config.eval.prompts == ("a: b",)
    assert config.model.tokenizer == ""


def test_an_override_makes_sections_that_are_absent_or_empty(tmp_path: Path) -> None:
    assert read(tmp_path, "", "name=a", "model.base=x").model.base == "x"
    assert read(tmp_path, BASE + "train:\n", "train.lr=1e-4").train.lr == 1e-4
    config = read(tmp_path, "name: a\n", "model.geometry.model_type=llama", "data.sources=[{path: a}]")
    assert config.model.geometry == {"model_type": "llama"}
    assert config.data.sources[0].path == "a"


def test_the_last_of_equal_overrides_counts(tmp_path: Path) -> None:
    assert read(tmp_path, BASE, "train.lr=1", "train.lr=2").train.lr == 2
    assert read(tmp_path, BASE, "train.lr=1", "train={lr: 3}").train.lr == 3


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("train.lr", "ARGS: 'train.lr' is not key=value"),
        ("=3", "ARGS: '=3' is not key=value"),
        ("--lr", "ARGS: '--lr' is not key=value"),
        ("train.lr=", "ARGS: train.lr = '': expected a number"),
        ("train.lr=[", "ARGS: train.lr: cannot read '[' as a value"),
        ("train.lr=-1", "ARGS: train.lr = -1: must be at least 0"),
        ("train.lrr=1", "ARGS: unknown key train.lrr; did you mean train.lr?"),
        ("train..lr=1", "unknown key train."),
        ("²=1", "ARGS: unknown key ²"),
        ("name.x=1", "ARGS: name.x: name is 'a', which has no keys"),
        ("data.sources.2.limit=1", "ARGS: data.sources.2.limit: data.sources has 1 items, counted from 0"),
        ("data.sources.path=y", "ARGS: data.sources.path: data.sources is a list; name one of its 1 items"),
        ("adapter.targets.0=q_proj", "ARGS: adapter.targets.0: adapter.targets is no list in the config file"),
        ("train.seed=" + "9" * 5000, "ARGS: train.seed: cannot read"),
    ],
)
def test_overrides_that_cannot_be(tmp_path: Path, word: str, said: str) -> None:
    assert said in problems(tmp_path, BASE + "data: {sources: [{path: a}]}\n", word)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\n", ":1: model.base: missing"),
        ("name: a\nmodel: {geometry: {}}\n", "model.base: missing"),
        ("name: a\nmodel:\n  geometry: {hidden_size: 8}\n", ":3: model.geometry: needs model_type"),
        ("name: a\nmodel:\n  geometry: {model_type: [llama]}\n", ":3: model.geometry: needs model_type"),
        (BASE + "adapter: {method: full}\ntrain: {lr: 1}\n", ""),
        (
            "name: a\nmodel: {base: x, quantize: nf4}\nadapter: {method: full}\n",
            ":3: adapter.method: full cannot be used on a base in nf4",
        ),
        (BASE + "data: {val_exact_only: true, sources: [{path: a}]}\n", "no source is marked `exact: true`"),
        (BASE + "data: {sources: [{path: families}]}\n", ":3: data.sources[0].rows: missing"),
        ("name: a\nmodel: {base: /, revision: v1}\n", ":2: model.revision: is for hub ids; what lies here"),
        (BASE + "data: {sources: [{path: /, revision: v1}]}\n", ":3: data.sources[0].revision: is for hub ids"),
        (BASE + "train: {warmup: 1.5}\n", ":3: train.warmup: 1.5 is neither a share below 1 nor whole steps"),
    ],
)
def test_contradictions(tmp_path: Path, text: str, said: str) -> None:
    if said:
        assert said in problems(tmp_path, text)
    else:
        assert contradictions(read(tmp_path, text)) == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("{val: .inf}", "data.val = inf: expected a share below 1, or whole rows"),
        ("{val: .nan}", "data.val = nan: must be at least 0"),
        ("{duplicates: {near: 0.04}}", "data.duplicates.near: below 0.05 most alike rows would be missed"),
    ],
)
def test_numbers_out_of_reach_end_the_command_with_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: str, said: str
) -> None:
    path = write(tmp_path, f"{BASE}data: {data}\n")
    assert start(["report", str(path)]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert shown.startswith("suri: 1 problem in the config:")
    assert said in shown


PAIRS = list(pairwise("abcdefghijk"))
ABSURD = [
    "data: {sources: [{path: a, repeat: 1000000000000}]}", "data: {sources: [{path: a, limit: 1000000000000}]}",
    "data: {val: 1e18}", "prompt: {cutoff: 1000000000000}", "adapter: {r: 1000000000000}",
    "adapter: {virtual_tokens: 1000000000000}", "adapter: {method: none, shots: 1000000000000}",
    "train: {epochs: 1e18}", "train: {batch_size: 1000000000000}", "eval: {rows: 1000000000000}",
    "eval: {max_new_tokens: 1000000000000}", "eval: {num_fewshot: 1000000000000}", "judge: {timeout: 1000000000000}",
    "judge: {parallel: 1000000000000}", "chat: {max_new_tokens: 1000000000000}",
    "data: {sources: [{path: a, weight: 1e308}]}", "train: {lr: 1e300}", "train: {neftune: 1e300}",
    "train: {weight_decay: 1e300}", "adapter: {alpha: 1e300}", "adapter: {lora_plus: 1e300}",
]  # fmt: skip


@pytest.mark.parametrize("text", ABSURD)
def test_absurd_numbers_are_refused(tmp_path: Path, text: str) -> None:
    assert "must be at most" in problems(tmp_path, f"{BASE}{text}\n")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["a: &a [1, 2]", *(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in PAIRS)], "stand for"),
        (["a: &a {x: 1}", *(f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}" for a, b in PAIRS)], "stand for"),
        (["a: &a [*a]"], "holds itself"),
    ],
)  # fmt: skip
def test_aliases_that_explode(tmp_path: Path, lines: list[str], said: str) -> None:
    start = time.monotonic()
    assert said in problems(tmp_path, BASE + "\n".join(lines) + "\n")
    assert time.monotonic() - start < 5
    (tmp_path / "template.yaml").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=said):
        load_template(str(tmp_path / "template.yaml"))


def test_aliases_that_do_not(tmp_path: Path) -> None:
    config = read(tmp_path, BASE + "data: {groups: {a: &a [x, y], b: *a}}\n")
    assert config.data.groups["b"] == ("x", "y")


def test_several_contradictions_at_once(tmp_path: Path) -> None:
    message = problems(tmp_path, "name: a\ntrain: {warmup: 2.5}\n")
    assert "model.base" in message
    assert "train.warmup" in message


def test_what_dump_writes_load_reads(tmp_path: Path) -> None:
    text = BASE + (
        "data: {sources: [{path: 데이터.json, limit: 3, exact: true}, {path: families, rows: 5}],\n"
        "       holdout: ['1e5', '010', 'no', 'null', '1:30', '', ' a', '2023-04-05', '1_0', '.inf', '- x', 'a: b']}\n"
        "prompt: {bos: '</s>', mask_prompt: false}\ntrain: {lr: 2e-5, warmup: 100, epochs: 3}\n"
    )
    first = read(tmp_path, text)
    again = read(tmp_path, dump(first))
    assert again == first
    assert dump(again) == dump(first)
    assert yaml.safe_load(dump(first))["train"]["lr"] == 2e-5  # and any YAML reader sees a number


def test_a_default_and_the_same_value_written_out_are_the_same_bytes(tmp_path: Path) -> None:
    assert dump(read(tmp_path, BASE + "adapter: {alpha: 32}\ntrain: {epochs: 1, lr: 2e-4, warmup: 3e-2}\n")) == dump(
        read(tmp_path, BASE)
    )


@pytest.mark.skipif(not CONFIGS, reason="no configs/*.yaml yet")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_config_of_the_repository_loads(path: Path) -> None:
    assert load(path).name


def test_each_key_says_what_it_is_and_when_to_change_it() -> None:
    def keys(section: type[BaseModel]) -> Iterator[tuple[str, str]]:
        for name, field in section.model_fields.items():
            inner = field.annotation if isinstance(field.annotation, type) else None
            if inner and issubclass(inner, BaseModel):
                yield from keys(inner)
            else:
                yield f"{section.__name__}.{name}", field.description or ""

    described = [pair for section in (Config, Source, Benchmark) for pair in keys(section)]
    assert len(described) > 90
    for key, text in described:
        assert len(re.findall(r"\S[.](?=\s|$)", text)) >= 2, key
