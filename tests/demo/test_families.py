"""The generated task families: every answer is worked out again here from the text alone."""

import calendar
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timedelta

import pytest

from pipeline.demo import words
from pipeline.demo.families import FAMILIES, GROUPS, HELD_OUT, generate

DRAWS = 1500
DATE = r"\d{4}-\d\d-\d\d|\d{1,2} [A-Z][a-z]+ \d{4}"


def the_only(pattern: str) -> Callable[[str, str], str]:
    """A solver that takes the one match of `pattern` in the input."""

    def solve(_: str, text: str) -> str:
        (match,) = re.findall(pattern, text)
        return match

    return solve


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def swap_name(_: str, text: str) -> str:
    last, first = text.split(", ")
    return first + " " + last


def make_plural(_: str, text: str) -> str:
    if re.search(r"[^aeiou]y$", text):
        return text[:-1] + "ies"
    return text + ("es" if re.search(r"(s|x|ch|sh)$", text) else "s")


def replace_word(instruction: str, text: str) -> str:
    first, second = re.findall(r"'(\w+)'", instruction)
    old, new = (second, first) if "instead of" in instruction else (first, second)
    replaced, count = re.subn(rf"\b{old}\b", new, text)
    assert count == 1
    assert not re.search(rf"\b{new}\b", text)
    return replaced


def fields_to_json(_: str, text: str) -> str:
    (key1, value1), (key2, value2) = (line.split(": ") for line in text.split("\n"))
    return f'{{"{key1}": "{value1}", "{key2}": "{value2}"}}'


def csv_to_bullets(_: str, text: str) -> str:
    return "- " + text.replace(",", "\n- ")


def iso_date_to_words(_: str, text: str) -> str:
    parsed = datetime.strptime(text, "%Y-%m-%d")
    return f"{parsed.day} {parsed:%B} {parsed.year}"


def nth_item(instruction: str, text: str) -> str:
    items = text.split(", ")
    assert len(set(items)) == len(items)
    (nth,) = re.findall(r"first|last", instruction)
    return items[{"first": 0, "last": -1}[nth]]


def next_weekday(instruction: str, _: str) -> str:
    (day,) = re.findall(r"[A-Z][a-z]+day", instruction)
    parsed = date.fromisocalendar(2021, 1, list(calendar.day_name).index(day) + 1)
    return f"{parsed + timedelta(days=1):%A}"


def sentiment(_: str, text: str) -> str:
    cues = {
        label: [cue for cue in (*words.REVIEW_ADJECTIVES[label], *words.REVIEW_REMARKS[label]) if cue in text]
        for label in ("positive", "negative")
    }
    (answer,) = (label for label, found in cues.items() if found)
    return answer


def opposite(instruction: str, _: str) -> str:
    pairs = dict([*words.OPPOSITES, *(pair[::-1] for pair in words.OPPOSITES)])
    (word,) = (word for word in re.findall(r"\w+", instruction) if word in pairs)
    return f"The opposite of {word} is {pairs[word]}."


def word_category(instruction: str, _: str) -> str:
    (word,) = re.findall(r"'(\w+)'", instruction)
    options = re.findall(r"\w+", instruction.split("': ")[1].replace(" or ", ", "))
    (answer,) = (label for label in options if word in words.CATEGORIES[label])
    return answer


def lookup_field(instruction: str, text: str) -> str:
    fields = dict(field.split(": ") for field in text.split("; "))
    (key,) = (key for key in fields if re.search(rf"\b{key}\b", instruction))
    return fields[key]


SOLVERS: dict[str, Callable[[str, str], str]] = {
    "extract-email": the_only(r"\S+@[a-z.]+[a-z]"),
    "extract-date": the_only(DATE),
    "extract-price": the_only(r"\$\d+(?:\.\d\d)?"),
    "extract-city": the_only(rf"\b(?:{'|'.join(words.CITIES)})\b"),
    "extract-order-number": the_only(r"\b[A-Z]{1,2}-\d{3,4}\b"),
    "swap-name": swap_name,
    "upper-case": lambda _, text: text.upper(),
    "make-plural": make_plural,
    "replace-word": replace_word,
    "fields-to-json": fields_to_json,
    "csv-to-bullets": csv_to_bullets,
    "iso-date-to-words": iso_date_to_words,
    "small-sum": lambda instruction, _: "{} + {} = {}".format(*numbers(instruction), sum(numbers(instruction))),
    "larger-number": lambda instruction, _: str(max(numbers(instruction))),
    "nth-item": nth_item,
    "next-weekday": next_weekday,
    "sentiment": sentiment,
    "opposite": opposite,
    "word-category": word_category,
    "extract-phone": the_only(r"(?:\d{3}-)?555-01\d\d"),
    "lookup-field": lookup_field,
}


def draw(name: str) -> list[tuple[str, str, str]]:
    rng = random.Random(7)
    return [FAMILIES[name].make(rng) for _ in range(DRAWS)]


def test_21_families_in_all_groups_with_two_held_out() -> None:
    assert len(FAMILIES) == 21
    assert list(FAMILIES) == list(SOLVERS)
    assert {item.group for item in FAMILIES.values()} == set(GROUPS)
    assert all(name == item.name for name, item in FAMILIES.items())
    assert len(set(HELD_OUT)) == 2
    assert set(HELD_OUT) <= set(FAMILIES)


@pytest.mark.parametrize("name", SOLVERS)
def test_answers_are_those_worked_out_from_the_text(name: str) -> None:
    for instruction, text, output in draw(name):
        assert SOLVERS[name](instruction, text) == output, (instruction, text)


@pytest.mark.parametrize("name", SOLVERS)
def test_instances_are_many_short_and_clean(name: str) -> None:
    drawn = draw(name)
    few = {"opposite": 6 * len(words.OPPOSITES)}  # two words in three phrasings
    assert len({(instruction, text) for instruction, text, _ in drawn}) >= min(600, few.get(name, 600))
    for instruction, text, output in drawn:
        assert 5 <= len(instruction.split()) <= 14, instruction
        assert len(text.split()) < 25, text
        assert 1 <= len(output.split()) <= 12, output
        for part in (instruction, text, output):
            assert part == part.strip()
            assert part.isascii()
            assert not re.search(r"  | \n", part)


def test_every_family_is_asked_in_three_or_four_ways() -> None:
    assert 3 <= len(words.EXTRACTION_ASKS) <= 4
    assert all(3 <= len(set(asks)) <= 4 for asks in words.ASKS.values())
    asks = [ask.format(kind) for ask in words.EXTRACTION_ASKS for kind in words.SENTENCES]
    asks += [ask for family_asks in words.ASKS.values() for ask in family_asks]
    assert len(set(asks)) == len(asks)


def test_json_answers_parse_to_the_pairs_of_the_input() -> None:
    for _, text, output in draw("fields-to-json"):
        assert json.loads(output) == dict(line.split(": ") for line in text.split("\n"))


def test_word_lists_keep_answers_unique() -> None:
    in_categories = Counter(word for entries in words.CATEGORIES.values() for word in entries)
    assert max(in_categories.values()) == 1
    names = {*words.FIRST_NAMES, *words.LAST_NAMES}
    assert not names & {*words.CITIES, *words.MONTHS, *words.WEEKDAYS}
    assert not {*words.FIRST_NAMES} & {*words.LAST_NAMES}
    for entries in (words.FIRST_NAMES, words.LAST_NAMES, words.CITIES, words.ITEMS, words.EVENTS, words.PETS):
        assert len(set(entries)) == len(entries)
        assert "" not in entries
    assert not [noun for noun in (*words.ITEMS, *words.CATEGORIES["job"]) if noun[0] in "aeiou"]


def test_generate_is_deterministic_and_depends_on_the_seed() -> None:
    assert generate(60, seed=3) == generate(60, seed=3)
    assert generate(60, seed=3) != generate(60, seed=4)


def test_more_rows_only_append() -> None:
    longer = generate(207, seed=5)
    assert len(longer) == 207
    for rows in (0, 1, 19, 100):
        assert generate(rows, seed=5) == longer[:rows]


def test_rows_are_distinct_and_evenly_spread() -> None:
    examples = generate(2110, seed=1)
    assert len({(row["instruction"], row["input"]) for row in examples}) == 2110
    counts = Counter(row["task"] for row in examples)
    assert set(counts) == set(FAMILIES)
    assert set(counts.values()) == {100, 101}
    assert all(list(row) == ["instruction", "input", "output", "task"] for row in examples)
    texts = [(row["task"], row["input"]) for row in examples if row["input"]]
    assert len(set(texts)) == len(texts)


def test_names_choose_the_families_and_their_turn() -> None:
    chosen = generate(5, seed=1, names=["nth-item", "extract-city"])
    assert [row["task"] for row in chosen] == ["nth-item", "extract-city"] * 2 + ["nth-item"]
    alone = generate(3, seed=1, names=["nth-item"])
    assert alone == chosen[::2]


def test_an_unknown_name_is_refused_with_the_nearest_ones() -> None:
    with pytest.raises(ValueError, match=r"extract-mail.*extract-email"):
        generate(1, seed=0, names=["extract-mail"])


def test_more_rows_than_a_family_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"swap-name.* 4"):
        generate(4801, seed=0, names=["swap-name"])


@pytest.mark.parametrize(("rows", "names"), [(-1, None), (1, []), (2, ["nth-item", "nth-item"])])
def test_senseless_arguments_are_refused(rows: int, names: list[str] | None) -> None:
    with pytest.raises(ValueError, match=r"generate|twice"):
        generate(rows, seed=0, names=names)
