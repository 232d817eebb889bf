"""The cleaning rules on tasks and answers: media, refusals, instructions, copies, endings, languages, personal data."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.dataset.clean.finding import Texts
from pipeline.dataset.clean.rule import Cleaner
from tests.helpers.rules import look, mended, rejects, row

DATA = Path(__file__).parents[2] / "data"
STANDARD = Cleaner("standard", {})


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
