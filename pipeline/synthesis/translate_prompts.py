"""Wording of the prompts of `translate.py`, in English and, for Korean rows, in Korean."""

TRANSLATE = {
    "en": """\
Below is a task{from_language} from a data set that teaches a model to follow instructions. Translate it into \
{language}.

- Translate only; do not do the task. Write it as a native speaker would put it.
- Leave as they are: code, text between backticks, placeholders such as {name} or [MASK], tags, blanks (___), every \
number, addresses, e-mail addresses, file names, and words of other languages that are quoted.
- Write names of people and places as texts in {language} write them.
- An empty field stays empty.
- Some tasks make no sense in {language}: they are about spelling, rhyme, pronunciation, number of letters or \
grammar of the language that they are written in. For such a task write the reason as `untranslatable`; otherwise \
leave it empty.

{task}

""",
    "ko": """\
아래는 모델에게 지시 수행을 가르치는 데이터에 들어 있는 과제{from_language}입니다. 이 과제를 {language}로 \
번역해 주세요.

- 번역만 하고 과제를 풀지는 마세요. {language}를 쓰는 사람이 처음부터 쓴 것처럼 자연스럽게 옮기세요.
- 다음은 그대로 두세요: 코드, 백틱(`) 안의 글, {name}이나 [MASK] 같은 자리 표시자, 태그, 빈칸(___), 모든 \
숫자, 웹 주소와 전자우편 주소, 파일 이름, 따옴표로 인용된 다른 언어의 말.
- 사람과 장소의 이름은 {language} 글에서 쓰는 대로 적으세요.
- 비어 있는 칸은 비워 두세요.
- 어떤 과제는 {language}로 옮기면 뜻이 없어집니다. 원래 언어의 철자, 운율, 발음, 글자 수, 문법을 묻는 과제가 \
그렇습니다. 그럴 때는 그 이유를 `untranslatable`에 적고, 아니면 비워 두세요.

{task}

""",
}
FROM = {"en": " in {from_language}", "ko": "({from_language})"}
IN_JSON = {
    "en": "Reply with JSON only: {fields}",
    "ko": "다음 JSON으로만 답하세요: {fields}",
}
IN_TEXT = {
    "en": "Reply in this form only (<noinput> for an empty field; Untranslatable: no, or the reason):\n{fields}",
    "ko": "다음 형식으로만 답하세요(빈 칸은 <noinput>, 번역불가: 아니요 또는 이유):\n{fields}",
}
FAULT = {
    "en": "That cannot be used as it is:\n{faults}\n\nWrite the whole translation again in {language}, in the "
    "same form, and keep what has to stay as it is in the task.",
    "ko": "그대로 쓸 수 없습니다:\n{faults}\n\n같은 형식으로 번역 전체를 {language}로 다시 쓰고, 원문에서 "
    "그대로 두어야 할 것은 그대로 두세요.",
}
ANSWER = {
    "en": "Do the task below. Write in {language}, unless the task asks for another language. Reply with the "
    "result alone, without an introduction and without repeating the task.\n\n{task}",
    "ko": "아래 과제를 수행해 주세요. 과제가 다른 언어를 요구하지 않는 한 {language}로 쓰세요. 인사말이나 "
    "과제의 되풀이 없이 결과만 쓰세요.\n\n{task}",
}
ANSWER_FAULT = {
    "en": "That is not in {language}. Write the same again in {language}.",
    "ko": "{language}로 쓰여 있지 않습니다. 같은 내용을 {language}로 다시 써 주세요.",
}
NO_REASON = ("", "no", "none", "n/a", "null", "false", "-", "아니요", "아니오", "없음")
