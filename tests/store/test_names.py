"""Names of adapters stay inside the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli.main import start
from pipeline.config.adapter_name import problem
from pipeline.config.load import load
from pipeline.run.errors import UserError
from pipeline.store.folder import Store
from tests.helpers.store_files import everything, filled

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
    with pytest.raises(UserError, match="letter case"):
        filled(store, "maths")
    with pytest.raises(UserError, match="differs"):
        store.check_free("MATHS", replace=True)
    with pytest.raises(UserError, match="maths") as caught:
        store.folder("maths")
    assert "did you mean Maths?" in caught.value.fix


@pytest.mark.parametrize("name", ["../x", "a／b", "", "con", "nulL"])
def test_commands_refuse_names_in_one_message(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADAPTERS", str(tmp_path / "adapters"))
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    for words in (["show"], ["remove"], ["keep"], ["measure"], ["combine"]):
        assert start(["adapters", *words, name, *(["a=1"] if words == ["combine"] else [])]) == 2
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
        with pytest.raises(UserError, match="link"):
            use("link")
    with pytest.raises(UserError, match="link"):
        filled(store, "link")
    assert store.names() == ["good"]
    for hidden in (".new.tmp", ".good.old", ".lock"):
        place = store.root / hidden
        place.unlink(missing_ok=True)
        place.symlink_to(outside / "precious" if hidden == ".lock" else outside)
        for use in (lambda: filled(store, "new"), lambda: store.remove("good")):
            with pytest.raises(UserError, match="link"):
                use()
        place.unlink()
    (store.root / "good" / "suri.json").symlink_to(outside / "precious")
    with pytest.raises(UserError, match=r"good.*record"):
        store.record("good")
    assert (outside / "precious").read_text() == "mine"
