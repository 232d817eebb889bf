"""Wording of the prompts of `questions.py`, in English and, for Korean rows, in Korean."""

ASK = {
    "en": """\
Below is a passage{headings}. Write {count} questions in {language} that it answers.

- Each is what a person might ask who has not seen the passage, and is understood without it: name what it is about, \
and never mention the passage, a text, a document or its author.
- The passage alone is enough to answer it.
- The questions are about different things, and of different kinds where the passage allows it (what, why, how, \
comparison, list).

<passage>
{passage}
</passage>

""",
    "ko": """\
아래 글{headings}이 답해 주는 질문 {count}개를 {language}로 만들어 주세요.

- 이 글을 본 적이 없는 사람이 물을 만한 질문이어야 하고, 글이 없어도 이해되어야 합니다. 무엇에 관한 질문인지 \
이름을 밝히고, '지문', '본문', '위 글', '이 문서', '글쓴이' 같은 말은 쓰지 마세요.
- 글에 있는 내용만으로 답할 수 있어야 합니다.
- 서로 다른 것을 묻고, 될 수 있으면 종류도 다르게 하세요(무엇, 왜, 어떻게, 비교, 나열).

<글>
{passage}
</글>

""",
}
HEADINGS = {"en": " (under the heading: {headings})", "ko": "(제목: {headings})"}
ASK_JSON = {
    "en": 'Reply with JSON only: {"questions": [{"question": "..."}, ...]}',
    "ko": '다음 JSON으로만 답하세요: {"questions": [{"question": "..."}, ...]}',
}
ASK_TEXT = {
    "en": "Reply in this form only:\n1. Question: ...\n2. Question: ...",
    "ko": "다음 형식으로만 답하세요:\n1. 질문: ...\n2. 질문: ...",
}
ASK_FAULT = {
    "en": "That cannot be used as it is:\n{faults}\n\nWrite all {count} questions again in {language}, in the "
    "same form. A reader who has never seen the passage must understand each.",
    "ko": "그대로 쓸 수 없습니다:\n{faults}\n\n같은 형식으로 질문 {count}개를 모두 {language}로 다시 써 "
    "주세요. 글을 본 적이 없는 사람도 이해할 수 있어야 합니다.",
}
ANSWER = {
    "en": """\
Answer the question in {language}, from the passage alone.

- Quote first, word for word, the part of the passage that holds the answer.
- Then write the answer in whole sentences, complete and to the point. Use nothing that the passage does not say: no \
further facts, names, numbers or dates. Do not mention the passage; the reader does not have it.
- If the passage does not answer the question, say that it is not answerable and leave the rest empty.

<passage{headings}>
{passage}
</passage>

Question: {question}

""",
    "ko": """\
아래 글만 보고 질문에 {language}로 답해 주세요.

- 먼저 답의 근거가 되는 부분을 글에서 한 글자도 바꾸지 말고 인용하세요.
- 그다음 완전한 문장으로 빠짐없이, 군더더기 없이 답하세요. 글에 없는 사실, 이름, 숫자, 날짜는 쓰지 마세요. \
읽는 사람에게는 글이 없으니 '글에 따르면' 같은 말도 쓰지 마세요.
- 글이 질문에 답해 주지 않으면 답할 수 없다고 하고 나머지는 비워 두세요.

<글{headings}>
{passage}
</글>

질문: {question}

""",
}
ANSWER_JSON = {
    "en": 'Reply with JSON only: {"answerable": true, "quote": "...", "answer": "..."}',
    "ko": '다음 JSON으로만 답하세요: {"answerable": true, "quote": "...", "answer": "..."}',
}
ANSWER_TEXT = {
    "en": "Reply in this form only:\nAnswerable: yes or no\nQuote: ...\nAnswer: ...",
    "ko": "다음 형식으로만 답하세요:\n답변가능: 예 또는 아니요\n인용: ...\n답변: ...",
}
ANSWER_FAULT = {
    "en": "That cannot be used as it is: {fault}\n\nAnswer again in the same form, in {language}, from the "
    "passage alone.",
    "ko": "그대로 쓸 수 없습니다: {fault}\n\n같은 형식으로, 글만 보고 {language}로 다시 답해 주세요.",
}
