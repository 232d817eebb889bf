"""The cleaning rules: each on rows that it must catch and on rows that it must leave alone."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset.clean.calculator import compute
from pipeline.dataset.clean.finding import Finding, Texts
from pipeline.dataset.clean.rule import RULES, Cleaner
from pipeline.demo.families import generate
from pipeline.run.errors import UserError

DATA = Path(__file__).parents[2] / "data"
STANDARD = Cleaner("standard", {})


def row(instruction: str = "Do it.", input: str = "", output: str = "Done.") -> Texts:
    return Texts(instruction, input, output)


def look(rule: str, texts: Texts, expected: str = "") -> Finding | None:
    return RULES[rule].look(texts, expected)


def mended(rule: str, texts: Texts) -> Texts:
    found = look(rule, texts)
    assert found is not None
    assert found.texts is not None
    assert look(rule, found.texts) is None  # nothing is left to mend
    return found.texts


def rejects(rule: str, texts: Texts, expected: str = "") -> bool:
    """Whether the rule rejects the row; a fix would be a surprise."""
    found = look(rule, texts, expected)
    assert found is None or found.texts is None
    return found is not None


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


# --- tasks that a text model cannot do


@pytest.mark.parametrize(
    "texts",
    [
        row("Describe the photo.", "![alt](https://a.org/b.jpg)"),
        row("Name the shape.", '<img src="https://a.org/b.png">'),
        row("What is in it?", "[Insert photo here]"),
        row("Which animal is it?", "<Image of an ocelot>"),
        row("Write a caption.", "Painting: (attached image)"),
        row("Judge it.", "Image URL: https://a.org/b.jpg"),
        row("사진을 설명하세요.", "[사진]"),
        row("Draw a flow chart.", "", "![chart](https://i.imgur.com/x.png)"),
        row("Draw a scene.", "", "<sketch/drawing>"),
    ],
)
def test_image_tasks(texts: Texts) -> None:
    assert rejects("image-task", texts)


@pytest.mark.parametrize(
    "texts",
    [
        row("Describe the photo.", "Image: A man working in an office"),
        row("Close the tags.", '<b><IMG src="a.png">'),
        row("Sort the list.", "[song, picture, book]"),
        row("Write a markdown image.", "", "![alt](https://a.org/b.png)"),
        row("Sum the list.", "[1, 2]", "[3]"),
        row("Explain it.", "(a word is worth a thousand pictures)", "It says so."),
    ],
)
def test_tasks_that_only_look_like_pictures(texts: Texts) -> None:
    assert not rejects("image-task", texts)


def test_url_tasks() -> None:
    url = "https://www.nytimes.com/2010/07/05/phone.html"
    assert rejects("url-task", row("Summarize the article.", url))
    assert rejects("url-task", row("Suggest improvements to this website.", "Website: www.example.com"))
    assert rejects("url-task", row(f"Summarize this article: {url}"))
    assert rejects("url-task", row("이 기사를 요약하세요.", url))
    assert not rejects("url-task", row("Give the domain of this website URL.", url))
    assert not rejects("url-task", row("Write HTML that links to the page.", url))
    assert not rejects("url-task", row("Summarize the article.", f"A long text. See {url} for more."))
    assert not rejects("url-task", row("What is a web page?"))


def test_drawing_tasks() -> None:
    assert rejects("drawing-task", row("Design a logo for a bakery."))
    assert rejects("drawing-task", row("Please create a new bar chart of the sales."))
    assert rejects("drawing-task", row("강아지 그림을 그려 줘."))
    assert not rejects("drawing-task", row("Generate a script in Python that draws a chart."))
    assert not rejects("drawing-task", row("Write a caption for an image."))
    assert not rejects("drawing-task", row("그림 그리는 법을 설명해 줘."))


# --- refusals


@pytest.mark.parametrize(
    "texts",
    [
        row("Tell me your feelings.", "", "As an AI language model, I do not have feelings."),
        row("How do I do it?", "", "I'm sorry, but I can't help with that."),
        row("Set a reminder for 8 am.", "", "I cannot set a reminder for 8 am."),
        row("Draw it.", "", "Sorry, the task involves visual output, which the model cannot do."),
        row("Render a house.", "", "This instruction cannot be completed by a GPT model."),
        row("그려 줘.", "", "죄송하지만 저는 그림을 그릴 수 없습니다."),
        row("오늘 날씨 어때?", "", "저는 AI 언어 모델로서 실시간 정보를 알 수 없습니다."),
    ],
)
def test_refusals(texts: Texts) -> None:
    assert rejects("refusal", texts)


@pytest.mark.parametrize(
    "texts",
    [
        row("Answer the customer.", "I want my money back.", "I'm sorry, but we cannot refund it."),
        row("Rewrite the sentence.", "I can't do it.", "I cannot do that."),
        row("Express surprise.", "", "I can't believe it!"),
        row("What does an AI say when it refuses?", "", '"As an AI language model" is what it says.'),
        row("Why is AI limited?", "", "AI cannot reason as humans do, and language models are unable to see."),
        row("Comfort me.", "", "I'm sorry to hear that. Can I help?"),
        row("항의에 답장을 써 주세요.", "", "죄송합니다만 환불은 어렵습니다."),
        row("위로해 줘.", "", "안타깝네요. 잘될 거예요."),
    ],
)
def test_answers_that_do_not_refuse(texts: Texts) -> None:
    assert not rejects("refusal", texts)


# --- instructions


def test_unclear_instructions() -> None:
    for asked in ("...", "?", "[instruction]", "Instruction:", "test", "<지시문>", "TODO"):
        assert rejects("unclear-instruction", row(asked))
    for asked in ("2+2=?", "Why?", "왜?", "Test the water.", "😀?a", "What is a test?"):
        assert not rejects("unclear-instruction", row(asked))
    assert not rejects("unclear-instruction", row("?", "What is it?"))
    assert STANDARD(row("\x00", "text")).rejected == ("unclear-instruction", "the instruction has no words")


def test_missing_inputs() -> None:
    for asked in (
        "Analyze the following sentence.",
        "Find the sum of the given numbers.",
        "Given the following input, name five instruments.",
        "Classify the following:",
        "다음 문장을 영어로 번역하세요.",
        "주어진 글을 한 문장으로 요약해 주세요.",
    ):
        assert rejects("missing-input", row(asked))
        assert not rejects("missing-input", row(asked, "There it is."))
    for asked in (
        'Analyze the following sentence: "I ran."',
        "Find the sum of the given numbers: 1 and 2",
        "Write a function that reverses a given string.",
        "Find the nouns in the sentence \u201cI ran home\u201d below.",
        "Describe the events following the war.",
        "다음 문장을 영어로 번역하세요: 나는 달렸다.",
        "다음 달 계획을 세워 주세요.",
    ):
        assert not rejects("missing-input", row(asked))


# --- copies


def test_instruction_in_output() -> None:
    asked = "Create a shopping list for the beach."
    assert mended("instruction-in-output", row(asked, "", asked + "\n\n- towel")).output == "- towel"
    assert mended("instruction-in-output", row(asked, "", asked[:-1] + ": a towel")).output == "a towel"
    korean = "여행 준비물을 세 가지 알려 주세요."
    assert mended("instruction-in-output", row(korean, "", korean + "\n1. 여권")).output == "1. 여권"
    for output in ("A towel.", asked, asked[:-1] + " and for the mountains.", f'"""\n{asked}\n"""\nx = 1'):
        assert look("instruction-in-output", row(asked, "", output)) is None
    assert look("instruction-in-output", row("Repeat this line after me", "", "Repeat this line after me\nok")) is None


def test_outputs_that_copy() -> None:
    assert rejects("output-is-instruction", row("Create a looping GIF.", "", "create a looping GIF"))
    assert not rejects("output-is-instruction", row("Repeat this sentence.", "", "Repeat this sentence."))
    assert not rejects("output-is-instruction", row("안녕하세요", "", "안녕하세요."))
    assert rejects("output-is-input", row("Describe the verb.", "Bring", "Bring"))
    assert not rejects("output-is-input", row("Correct the grammar if needed.", "It is fine.", "It is fine."))
    assert not rejects("output-is-input", row("Which day comes next?", "", "Monday"))


# --- arithmetic

VALUES: list[tuple[str, str | None]] = [
    ("3 + 4 * 2", "11"),
    ("(3 + 4) * 2", "14"),
    ("2^3^2", "512"),
    ("2 ** 3", "8"),
    ("8 / 4 / 2", "1"),
    ("-2 + 3", "1"),
    ("-2^2", "-4"),
    ("3 * -2", "-6"),
    ("2^-1", "1/2"),
    ("1,234.5 + 0.5", "1235"),
    ("20% * 50", "10"),
    ("4 × 5 ÷ 2", "10"),
    ("3 x 4", "12"),
    ("4x3", "12"),
    ("0.1 + 0.2", "3/10"),
    ("3x + 1", None),
    ("3x-1", None),
    ("1 / 0", None),
    ("0^-1", None),
    ("9^99999", None),
    ("9^64^9", None),
    ("2(3+4)", None),
    ("1 2 + 3", None),
    ("50 + 20%", None),
    ("7 % 3", None),
    ("3 + + 4", None),
    ("(3 + 4", None),
    ("3 + 4)", None),
    ("()", None),
    ("", None),
    ("3 +", None),
    ("1.2.3 + 1", None),
    ("__class__", None),
    ("(" * 50 + "1" + ")" * 50, None),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_compute(text: str, value: str | None) -> None:
    found = compute(text)
    assert (None if found is None else str(found.value)) == value


@pytest.mark.parametrize(
    "texts",
    [
        row(output="3 + 4 = 8"),
        row(output="So 3 + 4 * 2 = 14 in all."),
        row(output="The total is $2.25 + $1.13 + $1.80 = $4.45."),
        row(output="First 2 * 3 = 6.\nThen 6 - 1 = 4."),
        row(output="1. 12 x 12 = 140"),
        row(output="2 * 37 = 2 x 37 = 75"),
        row(output="20% of 50 is 10, and 20% of 60 = 13"),
        row(output="1,000 + 1 = 1,002"),
        row(output="10 / 4 = 2.6"),
        row(output="5 plus 4 equals 10"),
        row(output="3 더하기 4는 8입니다."),
        row(output="so .5 * 4 = 3"),
        row(output="10 - 4 = 7 apples"),
        row(output="$10 - $4 = $7"),
        row("What is 12 * 7?", "", "85"),
        row("Calculate 8 * (25 + 7)", "", "216"),
        row("Compute the expression.", "2^3 + 3^2", "The answer is 11."),
        row("12 곱하기 7은 얼마인가요?", "", "85입니다."),
        row("15 + 27을 계산하세요.", "", "43"),
    ],
)
def test_wrong_arithmetic(texts: Texts) -> None:
    assert rejects("wrong-arithmetic", texts)


@pytest.mark.parametrize(
    "texts",
    [
        row(output="3 + 4 = 7, 1/3 = 0.33, 2 / 3 = 0.67, 2/3 = 0.66 and 10 / 3 = 3"),
        row(output="5/20 = 25% and 0.25 * 100 = 25%"),
        row(output="2x + 4 = 20, 3x - 1 = 4, x - 3 + 5 = 1, 5y + 3 = 4"),
        row(output="3 + 4 = 7 + 1 = 8 and 6 * 7 = 42."),
        row(output="f(2) = 3 * 2 + 1 = 7 and log(10) + 1 = 2 and √16 + 9 = 13"),
        row(output="17 / 5 = 3 remainder 2; 3 + 9 = 2 (mod 10)"),
        row(output="90-100 = 4 points, 1-3 = 5 stars; 12/05 = 5; 1.2.3 + 1 = 4"),
        row(output="for i in range(3): x = 2 + 2 == 5; y[3] + 4 = 9"),
        row(output="3 + 4 = 8 is wrong."),
        row("Is the equation right?", "3 + 4 = 8", "It says 3 + 4 = 8, so no."),
        row("Add in binary.", "", "1 + 1 = 10"),
        row(output="0.33 * 3 = 1, 3.14 * 25 = 78.5, 2.67 x 3 = 8"),
        row(output="1.5 million = 1,500,000 and 3 + 4 = 7 million"),
        row(output="5 * 60 = 1 hour more"),
        row("What is 12 * 7?", "", "84"),
        row("What is 10 / 3?", "", "3.33"),
        row("What is 3 + 4 in Roman numerals?", "", "7"),
        row("Convert to postfix notation.", "3 + 4", "34"),
        row("Simplify the fraction.", "4 / 8", "0"),
        row("12 곱하기 7은 얼마인가요?", "", "84입니다."),
        row("Which date is it?", "2020-10-05", "5"),
        row(output="The fee adds .20*20 = $4.00 to her bill, and 4 * .25 = 1."),
        row(output="She has $2.50 - $2.24 = 26 cents left, and 4 x 25 = 1 dollar."),
        row(output="The sun sets at 6:00+48=6:48 PM."),
        row(output="That is 10/100%*5=.5 liters and 5 + 20 = 25%."),
        row(output="He runs 3 * 20 = 1 hour and waits 2 * 24 = 2 days; 0.5 * 2 = 100 cm."),
        row(output="16 - 3 = <<16-3=13>>13 eggs, <<16-3=12>>"),
        row("What is 2+2?", "", "Four, which is 4."),
    ],
)
def test_right_or_other_arithmetic(texts: Texts) -> None:
    assert look("wrong-arithmetic", texts) is None


def test_calculator_marks_are_taken_out() -> None:
    text = "He has 16 - 3 = <<16-3=13>>13 eggs, so $<<13*.5=6.50>>6.50 and S + <<+30+46=76>>.\n#### 13"
    assert mended("calculator-marks", row(output=text)).output == (
        "He has 16 - 3 = 13 eggs, so $6.50 and S + 76.\n#### 13"
    )
    assert look("calculator-marks", row(output="cout << a=3 >> b; <<EOF and x << 3 >> 1")) is None


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (
            "Give me the code.",
            "I'm sorry, I can't provide the exact code. However, I can show a sketch: " + "x = 1; " * 40,
        ),
        (
            "Draw it.",
            "Unfortunately, I cannot create images. Here is a list instead:\n- a\n- b\n" + "It goes on. " * 30,
        ),
        ("Are you a boy?", "As an AI language model, I do not have a gender."),
    ],
)
def test_answers_that_help_or_are_about_the_model_are_no_refusals(asked: str, answer: str) -> None:
    assert look("refusal", row(asked, "", answer)) is None
    assert rejects("refusal", row("Sing it.", "", "As an AI language model, I do not have a voice."))


# --- conversations


def test_earlier_turns_are_not_what_a_task_is_on() -> None:
    before = "User: Draw it.\nAssistant: ![chart](https://x.org/a.png)"
    for rule, texts in {
        "image-task": row("Now name three fruits.", before, "Apple, pear, plum."),
        "unclear-instruction": row("...", "User: Go\nAssistant: no", "What is wrong?"),
        "url-task": row("Rate this article. " + "It rained all day. " * 40 + "\nhttps://x.org/a", "", "Good."),
    }.items():
        assert look(rule, texts) is None
    assert look("unclear-instruction", row(":(", "", "What is wrong?")) is None
    assert rejects("unclear-instruction", row("...", "", "What is wrong?"))
    assert rejects("image-task", row("Name what you see.", before.partition("Assistant: ")[2], "A chart."))


# --- endings

PROSE = "The city lies by a wide river. It was founded by traders. " * 3


def test_cut_off() -> None:
    for output in (
        "```python\nprint(1)",
        PROSE + "It grew because of the",
        PROSE + "It has bridges, towers,",
        PROSE + "Today it has many small shops that sell bread to people who come from far away every morning to b",
        "1. Bring warm clothes and a good map.\n2. Start early in the morning.\n3.",
        "이 도시는 강가에 있습니다. 상인들이 세웠습니다. " * 2 + "지금은 사람들이 많이 찾아오며 주말에는 시장에서 빵을",
    ):
        assert rejects("cut-off", row("Tell me about it.", "", output))
    for output in (
        "Paris",
        "The Old Man and the Sea",
        PROSE,
        PROSE + "Visit us! #city #river",
        "- bread and butter\n- milk from the farm\n- a map of the town and the hills around it",
        "```\nprint(1)\n```",
        "이 도시는 강가에 있습니다. 상인들이 세웠습니다. 사람들이 많이 찾아옵니다. 시장도 있고 다리도 있어요",
    ):
        assert not rejects("cut-off", row("Tell me about it.", "", output))
    assert not rejects(
        "cut-off", row("Write a poem.", "", "The night is long and the wind is cold,\n" * 2 + "we walk with the")
    )


def test_too_repetitive() -> None:
    loop = "I am happy to be here with you. "
    assert rejects("too-repetitive", row(output="It began well. " + loop * 9))
    assert rejects("too-repetitive", row(output="Good. " + "very " * 60))
    assert rejects("too-repetitive", row(output="정말 좋아요. " + "네 맞아요 " * 20))
    assert rejects("too-repetitive", row(output="It was so loooo" + "o" * 60 + "ng that we left."))
    assert not rejects("too-repetitive", row("Write it 9 times.", "", loop * 9))
    assert not rejects("too-repetitive", row(output=PROSE))
    assert not rejects("too-repetitive", row(output="| - | - |\n" * 40))
    assert not rejects("too-repetitive", row(output="0 " * 80))


# --- languages


def test_wrong_language() -> None:
    english = "The first of these is the one that you have to look at, and it is not hard."
    korean = "이 가운데 첫 번째 것을 잘 보셔야 하고, 그것은 어렵지 않습니다. 천천히 읽어 보세요."
    french = "Je ne suis pas sûr de ce que je devrais faire avec les enfants dans la maison, mais ils sont là."
    assert rejects("wrong-language", row("설명해 주세요.", "", english), "ko")
    assert rejects("wrong-language", row("Explain it.", "", korean), "en")
    assert rejects("wrong-language", row("Explain it.", "", french), "en")
    assert rejects(
        "wrong-language",
        row("这是一个关于历史的问题，请你用几句话来说明这个问题的背景和原因，谢谢你。", "", "Ok."),
        "en",
    )
    assert not rejects("wrong-language", row("영어로 번역하세요.", korean, english), "ko")
    assert not rejects("wrong-language", row("Translate it into Korean.", english, korean), "en")
    assert not rejects("wrong-language", row("설명해 주세요.", english, korean), "ko")
    assert not rejects("wrong-language", row("파일을 나열하세요.", "", "find . -type f -name '*.log' -mtime +30"), "ko")
    assert not rejects("wrong-language", row("어느 도시인가요?", "", "New York"), "ko")
    assert not rejects("wrong-language", row("2+2=?", "", "4"), "en")
    assert not rejects("wrong-language", row("설명해 주세요.", "", english))


# --- personal data


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Write to jane.doe@naver.com now", "Write to [email] now"),
        ("메일은 hong@naver.com으로 주세요", "메일은 [email]으로 주세요"),
        ("010-9876-5432로 전화", "[phone]로 전화"),
        ("Call (212) 684-4700.", "Call [phone]."),
        ("+82 10-9876-5432, 02-312-4567", "[phone], [phone]"),
        ("주민번호 900101-1234568", "주민번호 [resident-number]"),
        ("9001011234568", "[resident-number]"),
        ("card 4539 1488 0343 6467", "card [card]"),
        ("SSN 536-22-8726", "SSN [social-security]"),
    ],
)
def test_personal_data_is_redacted(text: str, redacted: str) -> None:
    for field in Texts._fields:
        assert getattr(mended("personal-data", row()._replace(**{field: text})), field) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "me@example.com, you@test.example, a@mail.example.co.kr, name@email.com",
        "555-0123, 415-555-0100, (555) 123-4567, 123-456-7890, 010-0000-0000, 010-1234-5678",
        "900101-1234567, 901301-1234568, 9001011234567",
        "4111 1111 1111 1111, 4539 1488 0343 6468, 123-45-6789",
        "1234567890123, 3.14159265358979, 2020-10-05 12:30:45, 192.168.100.200",
        "ISBN 978-3-16-148410-0, v1.2.3, 1,000,000,000",
        "@handle and a @ b",
    ],
)
def test_what_is_nobodys_is_not_personal(text: str) -> None:
    assert look("personal-data", row(text, text, text)) is None


# --- the cleaner


def test_every_rule_says_what_it_does() -> None:
    for name, rule in RULES.items():
        assert name == rule.name
        assert 20 < len(rule.summary) <= 120
        assert "Source: " in (rule.function.__doc__ or "")
        assert "Misses: " in (rule.function.__doc__ or "")


def test_the_three_actions() -> None:
    texts = row("Say hello.\x00", "No input", "N/A")
    on = Cleaner("none", {"no-input-spelling": "on"})(texts)
    assert on.texts == texts._replace(input="")
    assert on.rejected is None
    assert [(c.rule, c.action, c.before, c.after) for c in on.changes] == [
        ("no-input-spelling", "fixed", {"input": "No input"}, {"input": ""})
    ]
    warned = Cleaner("none", {"no-input-spelling": "warn", "output-not-available": "warn"})(texts)
    assert warned.texts == texts
    assert warned.rejected is None
    assert [(c.rule, c.action, c.before, c.after) for c in warned.changes] == [
        ("no-input-spelling", "flagged", {"input": "No input"}, {}),
        ("output-not-available", "flagged", {"output": "N/A"}, {}),
    ]
    off = Cleaner("none", {})(texts)
    assert (off.texts, off.changes, off.rejected) == (texts, (), None)
    standard = STANDARD(texts)
    assert standard.rejected is not None
    assert standard.rejected[0] == "output-not-available"
    assert [c.rule for c in standard.changes] == ["control-characters", "no-input-spelling"]
    kept = Cleaner("standard", {"output-not-available": "off"})(texts)
    assert kept.texts == row("Say hello.", "", "N/A")


def test_flagged_rows_show_the_place() -> None:
    cleaner = Cleaner("none", {"personal-data": "warn"})
    change = cleaner(row(output="word " * 1_000 + "jane@naver.com" + " word" * 1_000)).changes[0]
    assert "jane@naver.com" in change.before["output"]
    assert len(change.before["output"]) < 300


def test_an_unknown_rule_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError) as caught:
        Cleaner("standard", {"refusals": "on"})
    assert caught.value.where == "data.rules"
    assert "refusal" in caught.value.fix


def test_a_cleaner_can_be_pickled() -> None:
    copy = pickle.loads(pickle.dumps(Cleaner("standard", {"refusal": "off"})))
    assert copy.actions["refusal"] == "off"
    assert copy(row(input="<noinput>")).texts.input == ""


def test_the_language_of_the_source_is_asked_only_where_it_is_set() -> None:
    texts = row("Explain it.", "", "이 가운데 첫 번째 것을 잘 보셔야 하고, 그것은 어렵지 않습니다.")
    assert STANDARD(texts).rejected is None
    found = STANDARD(texts, "en").rejected
    assert found is not None
    assert found[0] == "wrong-language"


NASTY: dict[str, Callable[[int], str]] = {
    "a": lambda n: "a" * n,
    "digits": lambda n: "0123456789" * (n // 10),
    "brackets": lambda n: "(" * n,
    "spaces": lambda n: " " * n,
    "no input": lambda n: "no input " * (n // 9),
    "lines": lambda n: "\n" * n,
    "sums": lambda n: "1+1=3 " * (n // 6),
    "equals": lambda n: "= " * (n // 2),
    "at": lambda n: "a.a@" * (n // 4),
    "nul": lambda n: "\x00" * n,
    "escapes": lambda n: "\\u00e9\\n" * (n // 8),
    "Ã": lambda n: "Ã" * n,
    "hangul": lambda n: "가" * n,
    "www": lambda n: "www." * (n // 4),
    "links": lambda n: "![" * (n // 2),
    "separators": lambda n: "\n____" * (n // 5) + "\n18. Instruction: x",
    "fields": lambda n: "{input}{0.__class__}" * (n // 20),
    "marks": lambda n: "\u200f\u05d0" * (n // 2),
}


@pytest.mark.parametrize("name", NASTY)
def test_no_text_is_too_much(name: str) -> None:
    """A catastrophic regex would not come back from these."""
    text = NASTY[name](100_000)
    cleaner = Cleaner("standard", dict.fromkeys(RULES, "on"))
    for texts in (row(text, "", text), row("Do it.", text, text), row("What is 1 + 1?", text, "2")):
        once = cleaner(texts, "en")
        if once.rejected is None:
            assert cleaner(once.texts, "en").texts == once.texts


def seeds(language: str) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (DATA / f"seed_tasks.{language}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


@pytest.mark.parametrize(("rows", "language"), [(generate(660, 42), "en"), (seeds("en"), "en"), (seeds("ko"), "ko")])
def test_our_own_rows_pass_untouched(rows: list[dict[str, Any]], language: str) -> None:
    cleaner = Cleaner("standard", dict.fromkeys(RULES, "on"))
    for item in rows:
        texts = Texts(item["instruction"], item.get("input", ""), item["output"])
        cleaned = cleaner(texts, language)
        assert (cleaned.texts, cleaned.rejected, cleaned.changes) == (texts, None, ())


def test_korean_chat_passes(shared_data: Path) -> None:
    with open(shared_data / "korean_chatbot.csv", encoding="utf-8", newline="") as file:
        rows = [row(item["Q"], "", item["A"]) for item in csv.DictReader(file)]
    assert sum(STANDARD(texts, "ko").rejected is not None for texts in rows) == 0


def test_alpaca(shared_data: Path) -> None:
    """What the defaults do to the original data; cleaning what they kept changes nothing."""
    rows = [Texts(**item) for item in json.loads((shared_data / "alpaca_data.json").read_text(encoding="utf-8"))]
    cleaned = [STANDARD(texts) for texts in rows]
    rejected: dict[str, int] = {}
    fixed: dict[str, int] = {}
    for item in cleaned:
        if item.rejected:
            rejected[item.rejected[0]] = rejected.get(item.rejected[0], 0) + 1
        for change in item.changes:
            if change.action == "fixed":
                fixed[change.rule] = fixed.get(change.rule, 0) + 1
    assert rejected["output-empty"] == 28
    assert fixed["merged-instructions"] == 37  # all that AlpacaDataCleaned's pattern finds
    assert fixed["no-input-spelling"] >= 478  # whole inputs that match AlpacaDataCleaned's pattern
    assert sum(rejected.values()) < 0.02 * len(rows)
    for item in cleaned:
        if not item.rejected and item.changes:
            again = STANDARD(item.texts)
            assert again.texts == item.texts
            assert again.rejected is None
            assert not any(change.action == "fixed" for change in again.changes)
