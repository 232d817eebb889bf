"""The data stage with a chat template: whole conversations are cleaned, compared, split, counted and shown."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.data_report import stage as report_stage
from pipeline.data_report.samples import characters, shown_texts
from pipeline.dataset import stage
from pipeline.dataset.clean.conversation import ConversationCleaner
from pipeline.dataset.diff import show
from pipeline.dataset.example import Example
from pipeline.dataset.examples import read_examples
from pipeline.dataset.turn import Turn
from pipeline.run.errors import UserError
from pipeline.run.files import write_json_lines
from pipeline.run.folder import Run
from tests.helpers.data_stage import Build, build, config_of, lines_of, rules_of, run
from tests.helpers.forms import talk
from tests.helpers.sources import A

__all__ = ["build", "run"]

LONG = "The heart pumps blood through the vessels of the body, about seventy times in every single minute of life."
KOREAN = [
    talk("s:당신은 친절한 도우미입니다.", "u:한국의 수도는 어디인가요?", "a:서울입니다.", "u:인구는 얼마나 되나요?",
         "a:약 940만 명입니다."),
    talk("u:김치찌개 끓이는 법을 알려 줘.", "a:먼저 김치를 볶고 물을 부어 끓입니다.", "u:고기는 언제 넣어?",
         "a:김치와 함께 볶으면 됩니다.", "u:고마워!", "a:맛있게 드세요."),
    {"conversations": [{"from": "human", "value": "안녕?"}, {"from": "gpt", "value": "안녕하세요! 반갑습니다."}]},
]  # fmt: skip


def written(folder: Path, rows: list[Any], name: str = "rows") -> Path:
    path = folder / f"{name}.jsonl"
    write_json_lines(path, rows)
    return path


def test_a_korean_multi_turn_set(build: Build, run: Run, tmp_path: Path) -> None:
    report = build(written(tmp_path, KOREAN), template="chatml", duplicates={"novelty": 0.7})
    examples = list(read_examples(run.folder("dataset"), "train"))
    assert [e.language for e in examples] == ["ko"] * 3
    assert [e.system for e in examples] == ["당신은 친절한 도우미입니다.", "", ""]
    assert [[turn.content for turn in e.turns] for e in examples[:2]] == [
        [m["content"] for m in row["messages"] if m["role"] != "system"] for row in KOREAN[:2]
    ]
    assert (examples[2].turns, examples[2].instruction) == ((), "안녕?")
    assert report["conversations"] == {
        "rows": 3, "several": 2, "turns": 12, "answers": 6, "learnt": 6, "with_system": 1, "with_tools": 0,
        "by_turns": {"2": 1, "3-4": 1, "5-6": 1},
    }  # fmt: skip
    sheet = (run.folder("dataset") / "README.md").read_text(encoding="utf-8")
    assert "2 of 3 rows have more than one question. Of 12 turns 6 are answers" in sheet
    assert "`turns` has all messages" in sheet


def test_the_rest_of_a_conversation_is_counted(build: Build, run: Run, tmp_path: Path) -> None:
    report = build(written(tmp_path, [talk("u:q1", "a:a1", "u:q2", "a:a2", "u:q3"), A]), template="chatml")
    assert (report["read"], report["kept"], report["rejected"]) == (3, 2, 1)
    assert [line["rule"] for line in lines_of(run, "rejected")] == ["no-answer"]


def test_alpaca_templates_cut_as_before_and_share_no_cache(run: Run, tmp_path: Path, build: Build) -> None:
    path = written(tmp_path, [talk("s:S", "u:q1", "a:a1", "u:q2", "a:a2"), A])
    cut, chat = (config_of(path, template=name) for name in ("alpaca", "chatml"))
    assert set(stage.key(chat, run)) - set(stage.key(cut, run)) == {"conversations"}
    assert stage.key(chat, run) == stage.key(config_of(path, template="llama-3"), run)
    report = build(path)
    assert "conversations" not in report
    data = (run.folder("dataset") / "train.jsonl").read_bytes()
    assert b"turns" not in data
    assert b"system" not in data
    # As the version before conversations could stay whole wrote it.
    text = data.replace(str(path).encode(), b"f")
    assert hashlib.sha256(text).hexdigest() == "81263392342487bc2850742c7616c1b13258f40d0160d4b183b471e2615ee4f6"


def test_rules_see_every_turn(build: Build, run: Run, tmp_path: Path) -> None:
    rows = [
        talk("u:Tell me of cafÃ© culture.", "a:It is old.", "u:And of tea?", "a:Tea in the cafÃ© is older."),
        talk("u:What is 1 + 1?", "a:2", "u:And 2 + 2?", "a:As an AI language model, I cannot answer."),
        talk("u:Hello!", "a:Hi!", "u:Continue the text above.", "a:", "u:x", "a:y"),
        talk("u:Hello!", "a:Hi, how are you?", "u:...", "a:I see, tell me more.", "u:.", "a:Well."),
        talk("s:Be\u200b kind.", "u:Who are you?", "a:A helper."),
    ]
    report = build(written(tmp_path, rows), template="chatml", rules={"refusal": "on"}, duplicates={"near": 0})
    found = rules_of(report)
    assert found["mojibake"] == (0, 1, 0)  # one conversation, two of its turns
    assert found["refusal"] == (1, 0, 0)
    assert found["control-characters"] == (0, 1, 0)
    assert "unclear-instruction" not in found  # "..." is a later turn
    first = next(read_examples(run.folder("dataset"), "train"))
    assert [turn.content for turn in first.turns][::3] == ["Tell me of café culture.", "Tea in the café is older."]
    (refused,) = (line for line in lines_of(run, "rejected") if line["rule"] == "refusal")
    assert refused["reason"] == "turns 3 and 4: the answer refuses the task"
    assert [turn["content"] for turn in refused["row"]["turns"]][:2] == ["What is 1 + 1?", "2"]
    changes = [line for line in lines_of(run, "changes") if line["rule"] == "mojibake"]
    assert [line["turns"] for line in changes] == [[1], [4]]
    assert changes[1]["before"] == {"turn 4": "Tea in the cafÃ© is older."}
    assert changes[0]["id"] == first.id
    assert list(read_examples(run.folder("dataset"), "train"))[-1].system == "Be kind."


def test_answers_without_loss_reject_nothing() -> None:
    clean = ConversationCleaner("standard", {"refusal": "on"})
    refusal = "As an AI language model, I cannot answer."
    turns = [
        Turn("user", "q?"),
        Turn("assistant", refusal, learn=False),
        Turn("user", "Why?"),
        Turn("assistant", "So."),
    ]
    example = Example.whole(turns, source="s")
    assert clean(example) == (example, [], None)
    learnt = Example.whole([*turns[:1], Turn("assistant", refusal), *turns[2:]], source="s")
    assert clean(learnt)[2] == ("refusal", "turns 1 and 2: the answer refuses the task")


def test_results_of_tools_keep_their_escapes() -> None:
    call = {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    turns = [
        Turn("user", "Look it up, please."), Turn("assistant", "", more=call), Turn("tool", '{"text": "a\\nb"}\u200b'),
        Turn("assistant", "It says a, then b."),
    ]  # fmt: skip
    example, changes, rejected = ConversationCleaner("standard", {})(Example.whole(turns, source="s"))
    assert rejected is None
    assert [(c.change.rule, c.turns) for c in changes] == [("control-characters", (3,))]
    assert example.turns[2].content == '{"text": "a\\nb"}'


def test_duplicates_look_at_all_turns(build: Build, run: Run, tmp_path: Path) -> None:
    story = [f"word{i}" for i in range(60)]
    rows = [
        talk("u:Hello", "a:Hi", "u:Tell a story", "a:" + " ".join(story)),
        talk("u:hello", "a:HI", "u:Tell a  story", "a:" + " ".join(story)),  # exact, but for case and space
        talk("u:Hello", "a:Hi", "u:Tell a story", "a:" + " ".join([*story[:-1], "other"])),  # near
        talk("u:Hello", "a:Hi", "u:Tell a story", "a:" + " ".join(reversed(story))),
        talk("s:S", "u:Add.\n\n1 2", "a:3"), talk("u:Add.\n\n1 2", "a:3"), talk("u:Add.\n\n1 2", "a:3"),
    ]  # fmt: skip
    report = build(written(tmp_path, rows), template="chatml")
    assert rules_of(report) == {"duplicate": (2, 0, 0), "near-duplicate": (1, 0, 0)}
    (kept, _) = lines_of(run, "duplicates")
    assert kept["kept"]["turns"][0]["content"] == "Hello"


def test_novelty_looks_at_the_first_question(build: Build, tmp_path: Path) -> None:
    rows = [
        talk("u:Name three famous rivers of the old continent.", "a:Rhine.", "u:More", "a:Elbe."),
        talk("u:Name three famous rivers of the old continent, please.", "a:Po.", "u:Any city?", "a:Rome."),
        talk("u:Which animals live there?", "a:Fish.", "u:More", "a:Birds."),
    ]
    found = rules_of(build(written(tmp_path, rows), template="chatml", duplicates={"novelty": 0.7, "near": 0}))
    assert found == {"not-novel": (1, 0, 0)}


def test_benchmark_questions_are_found_in_any_turn(build: Build, tmp_path: Path) -> None:
    question = "Which organ of the human body pumps about five litres of blood every minute?"
    benchmark = tmp_path / "b.jsonl"
    benchmark.write_text(json.dumps({"question": question}) + "\n")
    rows = [
        talk("u:Hello", "a:Hi", f"u:{question}", "a:The heart."),
        talk("s:You know that " + question, "u:q", "a:a"), talk("u:Hi", "a:Hello", "u:Fine?", "a:Yes, fine."),
    ]  # fmt: skip
    report = build(written(tmp_path, rows), template="chatml", benchmarks=[{"path": str(benchmark)}])
    assert rules_of(report) == {"contaminated": (2, 0, 0)}
    assert report["contamination"]["examples"][0]["row"]["turns"][2]["content"] == question


def test_a_conversation_is_in_one_split(build: Build, run: Run, tmp_path: Path) -> None:
    rows = [talk(f"u:question {i}", f"a:{LONG} {i}", "u:more", f"a:answer {i}") for i in range(30)]
    build(written(tmp_path, rows), template="chatml", val=0.2, duplicates={"near": 0})
    train, val = ({line["id"] for line in lines_of(run, name)} for name in ("train", "val"))
    assert len(train) + len(val) == 30
    assert val
    assert not train & val


def test_data_diff_compares_whole_conversations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [talk("u:Say x.", "a:cafÃ©", "u:Again.", "a:x"), talk("u:Say y.", "a:y", "u:Again.", "a:y")]
    other = [rows[0], talk("u:Say y.", "a:y", "u:Again.", "a:z")]
    folders = []
    for name, data, clean in (("a", rows, "none"), ("b", other, "standard")):
        run = Run(tmp_path / name)
        stage.build(config_of(written(tmp_path, data, name), template="chatml", clean=clean), run)
        folders.append(run.root)
    show(*folders)
    changes = [json.loads(line) for line in (folders[1] / "data-diff.jsonl").read_text().splitlines()]
    assert [change["change"] for change in changes] == [
        "only in A (train)", "only in B (train)", "train, with another text"
    ]  # fmt: skip
    assert "Say y. | y | Again. | z" in capsys.readouterr().out


def test_the_report_shows_turns(tmp_path: Path) -> None:
    row = Example.whole(
        [Turn("user", "q1"), Turn("assistant", "a1", learn=False), Turn("user", "q2"), Turn("assistant", "abc")],
        source="s", system="Be kind.",
    ).as_dict()  # fmt: skip
    assert shown_texts(row) == {
        "system": "Be kind.", "1. user": "q1", "2. assistant, no loss": "a1", "3. user": "q2", "4. assistant": "abc"
    }  # fmt: skip
    assert characters(row) == (17, 3)
    assert characters(A) == (4 + 3 + 1, 1)
    config, run = config_of(written(tmp_path, KOREAN), template="chatml"), Run(tmp_path / "runs" / "t")
    stage.build(config, run)
    report_stage.build(config, run, report_stage.key(config, run))
    html = (run.folder("report") / "data_report.html").read_text(encoding="utf-8")
    assert "<span>5. user</span>" in html
    assert "Conversations stay whole: 2 of 3 rows have more than one question." in html
    numbers = json.loads((run.folder("report") / "report.json").read_text(encoding="utf-8"))
    assert numbers["conversations"]["turns"] == 12


def test_a_source_of_broken_calls_says_what_to_fix(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        stage.build(config_of(written(tmp_path, [talk("u:q", "t:x", "a:a")] * 2), template="chatml"), run)
    assert "result-without-call" not in str(caught.value)
    assert "tool_calls" in caught.value.fix
