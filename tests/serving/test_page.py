"""The page of `make ui` as one file: its texts, its policy, and that nothing comes from outside."""

from __future__ import annotations

import base64
import hashlib
import re
from string import Formatter

from pipeline.evaluation import known
from pipeline.pages.phrases import tables
from pipeline.serving.page.page import HERE, SCRIPTS, content_security_policy, page, texts
from tests.helpers.pages import ParsedPage

SOURCES = [HERE / "page.html", *(HERE / "scripts").glob("*.js")]
# Keys that scripts put together.
JOINED = ("state-", "kind-", "end-", "run-", "examples-", "column-")


def values(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_both_languages_have_the_same_texts_with_the_same_values() -> None:
    english, korean = texts()["en"], texts()["ko"]
    assert english.keys() == korean.keys()
    assert {key for key in english if values(english[key]) != values(korean[key])} == set()
    assert {key for key, text in korean.items() if not re.search("[가-힣]", text)} <= {"temperature", "top-p",
                                                                                     "creative-about"}  # fmt: skip


def test_every_text_is_used_and_every_used_text_exists() -> None:
    whole = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    english = texts()["en"]
    used = set(re.findall(r'data-t(?:-label|-placeholder)?="([\w-]+)"', whole))
    used |= {word for word in re.findall(r'"([a-z][\w-]*)"', whole) if word in english}
    used |= {key for key in english if key.startswith(JOINED)}
    assert english.keys() - used == set()
    named = set(re.findall(r'data-t(?:-label|-placeholder)?="([\w-]+)"', whole))
    for call in (r"\b(?:t|announce)\(", r'put\([^"`]*?, ', r'word\("\w+", '):
        named |= set(re.findall(rf'{call}"([\w-]+)"[,)]', whole))
    assert named - english.keys() == set()


def test_words_of_measurements_are_those_of_the_reports() -> None:
    labels = tables()["labels"]
    assert {word: korean for word, korean in texts()["labels"].items() if labels.get(word) != korean} == {}


def test_what_the_base_knew_has_korean_names() -> None:
    asked = [{"kind": kind, "asked": "complete" if kind == "request" else "right"} for kind in known.NAMES]
    answers = [{**one, "passed": True} for one in asked]
    korean = texts()["labels"]
    words = "|".join(sorted(map(re.escape, korean), key=len, reverse=True))
    for name, *_ in known.rows(answers, answers):
        translated = re.sub(rf"(?<!\w)(?:{words})(?!\w)", lambda found: korean[found[0]], name)
        assert not re.search("[A-Za-z]", translated), translated


def test_nothing_comes_from_outside() -> None:
    parsed = ParsedPage(page())
    assert parsed.handlers == []
    assert {link[:5] for link in parsed.links} == {"data:", "#inst"}
    addresses = set(re.findall(r"https?://[^\s\"'`]+", page()))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert (parsed.tags["script"], parsed.tags["style"]) == (1, 1)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert " style=" not in page()


def test_scripts_write_no_html() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (HERE / "scripts").glob("*.js"))
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", code) == []


def test_the_policy_names_the_page_s_own_script_and_style() -> None:
    policy = dict(rule.split(" ", 1) for rule in content_security_policy().split("; "))
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"


def test_it_is_small_and_whole() -> None:
    assert len(page().encode()) < 90_000
    assert {path.stem for path in (HERE / "scripts").glob("*.js")} == set(SCRIPTS)


def test_no_text_of_a_script_spans_lines() -> None:
    """page.py joins the scripts without indentation."""
    for path in (HERE / "scripts").glob("*.js"):
        for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert line.count("`") % 2 == 0, f"{path.name}:{n}"
