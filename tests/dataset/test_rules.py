"""The cleaning rules, one by one: what they find and what they leave alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.dataset.clean.finding import Texts
from pipeline.dataset.clean.rule import Cleaner
from tests.helpers.rules import look, mended, rejects, row

DATA = Path(__file__).parents[2] / "data"
STANDARD = Cleaner("standard", {})


# --- mojibake

MISREAD = [
    ("It’s a café — naïve “quotes”…", "utf-8", "sloppy"),
    ("l’été — voilà", "utf-8", "cp1252"),
    ("café à la carte", "utf-8", "latin-1"),
    ("emoji 😀 here", "utf-8", "sloppy"),
    ("안녕하세요, 반갑습니다.", "utf-8", "sloppy"),
    ("안녕하세요, 반갑습니다. ABC 123", "euc-kr", "latin-1"),
]


@pytest.mark.parametrize(("text", "right", "wrong"), MISREAD)
def test_mojibake_is_read_back(text: str, right: str, wrong: str) -> None:
    data = text.encode(right)
    if wrong == "sloppy":
        broken = "".join(bytes([b]).decode("cp1252", errors="ignore") or chr(b) for b in data)
    else:
        broken = data.decode(wrong)
    assert mended("mojibake", row(output=broken)).output == text


def test_utf8_read_as_cp949_is_read_back_where_no_byte_was_lost() -> None:
    # Two letters of three bytes fill three of CP949's pairs; few texts get through whole.
    texts = ["".join((a, b)) for a in "가나다라마바사아자차카타파하한국어" for b in "각낙닥락막박삭악작착칵탁팍학말글"]
    survivors = []
    for text in texts:
        try:
            broken = (text * 2).encode().decode("cp949")
        except UnicodeDecodeError:
            continue
        found = look("mojibake", row(output=broken))
        if found:
            assert found.texts is not None
            assert found.texts.output == text * 2
            survivors.append(text)
    assert survivors


@pytest.mark.parametrize(
    "text",
    [
        "L'été, « déjà vu » à Paris…",
        "AÇÃO, EDUCAÇÃO e MANHÃ…",
        "Er sagte: „Ä“ und „Ö”",
        "CAFÉ… 20 °C ± 5 µm × 3 ½",
        "안녕하세요. 漢字도 있고 café도 있습니다.",
        "日本語と中文",
        "plain ASCII",
    ],
)
def test_proper_text_is_no_mojibake(text: str) -> None:
    assert look("mojibake", row(text, text, text)) is None


def test_mojibake_that_cannot_be_read_back_is_rejected() -> None:
    assert rejects("mojibake", row(output="He said itâ€™s cafÃ© or café."))
    assert rejects("mojibake", row(output="이것은 占쏙옙占쏙옙 입니다"))
    assert look("mojibake", row("Explain this encoding error: Ã©")) is None


# --- characters

SEEN = [
    ("a\x00b\x07c\x7f", "abc"),
    ("one\r\ntwo\rthree\x0bfour\u2028five", "one\ntwo\nthree\nfour\nfive"),
    ("It\x92s \x93here\x94", "It’s “here”"),
    ("any\xadbody zero\u200bwidth \ufeffBOM", "anybody zerowidth BOM"),
    ("right \u202eto left\u202c, \u2066isolate\u2069", "right to left, isolate"),
    ("Meeting \u200e▸ Next", "Meeting ▸ Next"),
    ("a\u200db", "ab"),
    ("hidden\U000e0041\U000e0042", "hidden"),
]


@pytest.mark.parametrize(("text", "clean"), SEEN)
def test_control_characters_go(text: str, clean: str) -> None:
    for field in Texts._fields:
        assert getattr(mended("control-characters", row()._replace(**{field: text})), field) == clean


def test_control_characters_in_all_fields_go_at_once() -> None:
    assert mended("control-characters", row("a\x00", "b\x01", "c\x02")) == row("a", "b", "c")


@pytest.mark.parametrize(
    "text",
    [
        "tabs\tand\nlines",
        "👩‍👩‍👧 ❤️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
        "می‌خواهم",
        "क्‍ष",
        "שלום \u200f(a)\u200e",
        "ภาษา\u200bไทย",
        "nbsp\u00a0and　ideographic space",
        "안녕하세요",
    ],
)
def test_joiners_and_marks_that_are_needed_stay(text: str) -> None:
    assert look("control-characters", row(text, text, text)) is None


def test_literal_escapes_are_resolved() -> None:
    assert mended("literal-escapes", row(output="One.\\n\\nTwo.")).output == "One.\n\nTwo."
    assert mended("literal-escapes", row(output="안녕하세요.\\n반갑습니다.")).output == "안녕하세요.\n반갑습니다."
    assert mended("literal-escapes", row(output="caf\\u00e9 \\ud83d\\ude00")).output == "café 😀"
    assert mended("literal-escapes", row(output="Tom &amp; Jerry&#39;s")).output == "Tom & Jerry's"


@pytest.mark.parametrize(
    "texts",
    [
        row("Write C code.", "", 'printf("a\\n");'),
        row("What is the escape for a line end?", "", "It is \\n."),
        row(output="The path is C:\\temp\\u00e9"),
        row(output="real\nline and \\n"),
        row(output="<b>a &amp; b</b>"),
        row(output="$\\nabla \\times F$"),
        row(output="\\ud83d alone and \\u0041"),
        row("Convert the unicode text.", "\\u00e9", "é"),
    ],
)
def test_escapes_that_are_meant_stay(texts: Texts) -> None:
    assert look("literal-escapes", texts) is None


def test_replacement_characters() -> None:
    assert rejects("replacement-character", row(output="caf\ufffd"))
    assert rejects("replacement-character", row(input="\ufffd\ufffd말"))
    assert not rejects("replacement-character", row(input="one \ufffd alone"))
    assert not rejects("replacement-character", row("What is the unicode character?", "", "\ufffd"))


# --- placeholders

NO_INPUT = (
    'No input|noinput|<no input>|<noinput>|No input.|[no input]|(noinput)|"<noinput>"|No input required.|N/A'
    "|none|<none>|\\<noinput\\>| \n |입력 없음|<입력 없음>|없음|입력이 없습니다.|해당 없음"
)


@pytest.mark.parametrize("given", NO_INPUT.split("|"))
def test_no_input_becomes_empty(given: str) -> None:
    assert mended("no-input-spelling", row(input=given)).input == ""


@pytest.mark.parametrize(
    "texts",
    [
        row(input=""),
        row(input="The boy <noinput> the ball"),
        row(input="no input lag at all on this screen"),
        row(input="nothing"),
        row("Translate the word into Korean.", "none", "없음"),
        row("What type is this in Python?", "None", "NoneType"),
        row("단어의 뜻을 설명하세요.", "없음", "존재하지 않음"),
    ],
)
def test_inputs_that_are_inputs_stay(texts: Texts) -> None:
    assert look("no-input-spelling", texts) is None


@pytest.mark.parametrize(("output", "empty"), [("", True), (" \n\t", True), ("0", False), ("없음", False)])
def test_output_empty(output: str, empty: bool) -> None:
    found = look("output-empty", row(output=output))
    assert (found is not None) == empty
    assert not found or found.reason == "output is empty"


@pytest.mark.parametrize(
    "output", ["N/A", "n/a.", "<nooutput>", "No output", "nan", "<none>", "null", "출력 없음", "[없음]"]
)
def test_outputs_that_are_no_answer(output: str) -> None:
    assert rejects("output-not-available", row(output=output))


@pytest.mark.parametrize(
    "texts",
    [
        row("Classify the correlation: positive, negative or none.", "x", "None"),
        row("Which of these is it?", "", "None of the above"),
        row("What does JSON use for null?", "", "null"),
        row("부작용이 있으면 쓰세요.", "", "없음"),
        row("Is it true?", "", "No"),
    ],
)
def test_short_answers_that_are_right_stay(texts: Texts) -> None:
    assert look("output-not-available", texts) is None


def test_a_mark_for_no_output_before_an_answer_goes() -> None:
    assert mended("output-not-available", row(output="<noinput>\nOutput:\nA title")).output == "A title"
    cleaned = Cleaner("standard", {"refusal": "on"})(
        row("Draw a cat.", "", "<nooutput> - Visuals cannot be created by a language model.")
    )
    assert cleaned.rejected == ("refusal", "the answer refuses the task")


def test_empty_code() -> None:
    for output in ("```\n```", "```python\n\n```", "# Your code goes here", "```\n// insert code here\n```"):
        assert rejects("empty-code", row("Write code.", "", output))
    for output in ("```\nx = 1\n```", "pass", "# this adds two numbers", "There is no code here."):
        assert not rejects("empty-code", row("Write code.", "", output))


# --- merged rows and templates


@pytest.mark.parametrize(
    ("output", "kept"),
    [
        ("It is blue.\n## \n18. Instruction: Name a fruit.\n18. Input:\n", "It is blue."),
        ("1. One\n2. Two\n#\n15. Instruction: x", "1. One\n2. Two"),
        ("| a | b |\n\n\n____\n///\n6. Instruction: x", "| a | b |"),
        ("<!-- -->\nEnd.\n<!-- --> \n7. Instruction: x", "<!-- -->\nEnd."),
        ("좋습니다.\n\n### 질문: 다음은?\n### 답변: 네", "좋습니다."),
        ("Fine.\n\n### Instruction:\nNext", "Fine."),
        ("### Response:\nThe answer", "The answer"),
    ],
)
def test_merged_instructions_are_cut_off(output: str, kept: str) -> None:
    assert mended("merged-instructions", row(output=output)).output == kept


def test_merged_instructions_that_cannot_be_cut_or_are_wanted() -> None:
    assert rejects("merged-instructions", row(output="### Instruction:\nName a fruit."))
    assert look("merged-instructions", row("Write two instructions.", "", "a\n2. Instruction: b")) is None
    assert look("merged-instructions", row(output="1. Instruction: Read.\nThen eat.")) is None
    assert look("merged-instructions", row(output="# Input: 3\n## Output\nSee 18. Instruction: x")) is None


def test_template_markers() -> None:
    assert rejects("template-markers", row(input="a<|im_end|>b"))
    assert rejects("template-markers", row(output="</s><s>[INST] x [/INST]"))
    assert rejects("template-markers", row("### Instruction:\nSay hi"))
    assert not rejects("template-markers", row(input="<p><s>struck</s> out</p>", output="a <| b |> c"))
    assert not rejects("template-markers", row(output="## Input\nand ### headings"))
