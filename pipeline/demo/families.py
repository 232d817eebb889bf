"""Families of small generated instruction tasks, each instance with exactly one right short answer.

With them a short fine-tuning of a very small model can be measured by exact match on new instances. A family draws an
instruction (one of a few phrasings), an input and the output from one random generator. The answer is unique by
construction: the input contains one item of the requested kind (e-mail address, date, city, ...), or the output follows
from the input by a fixed rule (a sum, the next weekday, JSON on one line).

`HELD_OUT` names two families that are similar to the others and are not for training.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.demo import words
from pipeline.run.nearest import closest

Texts = tuple[str, str, str]  # instruction, input, output
Make = Callable[[random.Random], Texts]

GROUPS = ("extraction", "transformation", "arithmetic", "ordering", "format", "classification")
MAX_REDRAWS = 2000  # of one row, before a family counts as exhausted


@dataclass(frozen=True)
class Family:
    """One kind of task; `make` draws an instance as (instruction, input, output)."""

    name: str
    group: str
    make: Make


FAMILIES: dict[str, Family] = {}
HELD_OUT: tuple[str, str] = ("extract-phone", "lookup-field")


def family(name: str, group: str) -> Callable[[Make], Make]:
    """Register the decorated function as the `make` of a family."""

    def register(make: Make) -> Make:
        FAMILIES[name] = Family(name, group, make)
        return make

    return register


def generate(rows: int, seed: int, names: Sequence[str] | None = None) -> list[dict[str, str]]:
    """`rows` distinct examples, spread evenly over the families `names` (None: all, held-out ones too).

    The families take turns, and each has a random generator of its own, so a larger `rows` only appends. Within a
    family all inputs (or instructions, if the input is empty) are different.

    Raises:
        ValueError: an unknown or repeated name, or more rows than the families have.
    """
    chosen = _choose(names)
    if rows < 0 or (rows and not chosen):
        raise ValueError(f"cannot generate {rows} rows from {len(chosen)} families")
    streams = {item.name: random.Random(f"{seed}/{item.name}") for item in chosen}
    seen: set[tuple[str, str]] = set()
    examples = []
    for index in range(rows):
        item = chosen[index % len(chosen)]
        for _ in range(MAX_REDRAWS):
            instruction, text, output = item.make(streams[item.name])
            key = (item.name, text or instruction)
            if key not in seen:
                break
        else:
            supplied = index // len(chosen)
            raise ValueError(f"family {item.name!r} has no more distinct examples after {supplied} of them")
        seen.add(key)
        examples.append({"instruction": instruction, "input": text, "output": output, "task": item.name})
    return examples


def _choose(names: Sequence[str] | None) -> list[Family]:
    """The families called `names`, in that order; ValueError for an unknown or repeated name."""
    if names is None:
        return list(FAMILIES.values())
    for name in names:
        if name not in FAMILIES:
            near = closest(name, FAMILIES, most=3, alike=0.4) or list(FAMILIES)
            raise ValueError(f"unknown family {name!r}; nearest names: {', '.join(near)}")
    if len(set(names)) != len(names):
        raise ValueError(f"a family is named twice: {', '.join(names)}")
    return [FAMILIES[name] for name in names]


def _date(rng: random.Random) -> tuple[int, int, int]:
    return rng.randint(1990, 2029), rng.randint(1, 12), rng.randint(1, 28)


def _iso(year: int, month: int, day: int) -> str:
    return f"{year}-{month:02}-{day:02}"


def _in_words(year: int, month: int, day: int) -> str:
    return f"{day} {words.MONTHS[month - 1]} {year}"


def _summands(rng: random.Random, low: int, high: int) -> tuple[int, int]:
    """Two numbers whose sum `eval.known` does not ask: those questions are never trained on."""
    while True:
        a, b = rng.randint(low, high), rng.randint(low, high)
        if (a, b) not in words.SUMS_NOT_TRAINED_ON:
            return a, b


def _price(rng: random.Random) -> str:
    return f"${rng.randint(2, 99)}" + rng.choice(("", ".25", ".50", ".75", ".99"))


def _ask(rng: random.Random, name: str, /, **slots: object) -> str:
    """One of the phrasings of the family `name`, its slots filled."""
    return rng.choice(words.ASKS[name]).format(**slots)


def _extract(rng: random.Random, kind: str, answer: str) -> Texts:
    """The task to find `answer`, the only thing of its `kind` in a random sentence."""
    slots = {
        "answer": answer,
        "name": rng.choice(words.FIRST_NAMES),
        "last": rng.choice(words.LAST_NAMES),
        "city": rng.choice(words.CITIES),
        "item": rng.choice(words.ITEMS),
        "job": rng.choice(words.CATEGORIES["job"]),
        "event": rng.choice(words.EVENTS),
        "date": _in_words(*_date(rng)),
        "price": _price(rng),
    }
    ask = rng.choice(words.EXTRACTION_ASKS).format(kind)
    return ask, rng.choice(words.SENTENCES[kind]).format(**slots), answer


def _fields(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """`count` different keys in random order, each with a random value."""
    values = {
        "name": words.FIRST_NAMES,
        "city": words.CITIES,
        "job": words.CATEGORIES["job"],
        "colour": words.CATEGORIES["colour"],
        "pet": words.PETS,
        "item": words.ITEMS,
    }
    return [(key, rng.choice(values[key])) for key in rng.sample(list(values), count)]


@family("extract-email", "extraction")
def _extract_email(rng: random.Random) -> Texts:
    first, last = rng.choice(words.FIRST_NAMES).lower(), rng.choice(words.LAST_NAMES).lower()
    user = rng.choice((first, last, f"{first}.{last}", f"{first}{rng.randint(1, 99)}"))
    domain = rng.choice(("example.com", "example.org", "test.example"))
    return _extract(rng, "e-mail address", f"{user}@{domain}")


@family("extract-date", "extraction")
def _extract_date(rng: random.Random) -> Texts:
    return _extract(rng, "date", rng.choice((_iso, _in_words))(*_date(rng)))


@family("extract-price", "extraction")
def _extract_price(rng: random.Random) -> Texts:
    return _extract(rng, "price", _price(rng))


@family("extract-city", "extraction")
def _extract_city(rng: random.Random) -> Texts:
    return _extract(rng, "city", rng.choice(words.CITIES))


@family("extract-order-number", "extraction")
def _extract_order_number(rng: random.Random) -> Texts:
    letters = "".join(rng.choices("ABCDEFGHKLMNPRSTVWXZ", k=rng.randint(1, 2)))
    return _extract(rng, "order number", f"{letters}-{rng.randint(100, 9999)}")


@family("swap-name", "transformation")
def _swap_name(rng: random.Random) -> Texts:
    first, last = rng.choice(words.FIRST_NAMES), rng.choice(words.LAST_NAMES)
    return _ask(rng, "swap-name"), f"{last}, {first}", f"{first} {last}"


@family("upper-case", "transformation")
def _upper_case(rng: random.Random) -> Texts:
    adjectives = rng.sample(words.PHRASE_ADJECTIVES, rng.randint(1, 2))
    phrase = " ".join(["the", *adjectives, rng.choice(words.PHRASE_NOUNS)])
    return _ask(rng, "upper-case"), phrase, phrase.upper()


@family("make-plural", "transformation")
def _make_plural(rng: random.Random) -> Texts:
    number = rng.randint(2, 99)
    noun = rng.choice((*words.ITEMS, *words.PLURALS))
    return _ask(rng, "make-plural"), f"{number} {noun}", f"{number} {words.PLURALS.get(noun, noun + 's')}"


@family("replace-word", "transformation")
def _replace_word(rng: random.Random) -> Texts:
    name, other, new_name = rng.sample(words.FIRST_NAMES, 3)
    colour, new_colour = rng.sample(words.CATEGORIES["colour"], 2)
    item, new_item = rng.sample(words.ITEMS, 2)
    slots = {"name": name, "other": other, "colour": colour, "item": item, "place": rng.choice(words.PLACES)}
    changed, new = rng.choice((("name", new_name), ("colour", new_colour), ("item", new_item)))
    frame = rng.choice(words.REPLACEMENTS)
    ask = _ask(rng, "replace-word", old=slots[changed], new=new)
    return ask, frame.format(**slots), frame.format(**(slots | {changed: new}))


@family("fields-to-json", "format")
def _fields_to_json(rng: random.Random) -> Texts:
    fields = _fields(rng, 2)
    lines = "\n".join(f"{key}: {value}" for key, value in fields)
    return _ask(rng, "fields-to-json"), lines, json.dumps(dict(fields))


@family("csv-to-bullets", "format")
def _csv_to_bullets(rng: random.Random) -> Texts:
    items = rng.sample(words.ITEMS, rng.randint(2, 4))
    return _ask(rng, "csv-to-bullets"), ",".join(items), "\n".join(f"- {item}" for item in items)


@family("iso-date-to-words", "format")
def _iso_date_to_words(rng: random.Random) -> Texts:
    date = _date(rng)
    return _ask(rng, "iso-date-to-words"), _iso(*date), _in_words(*date)


@family("small-sum", "arithmetic")
def _small_sum(rng: random.Random) -> Texts:
    name, things = rng.choice(words.FIRST_NAMES), rng.choice(words.ITEMS) + "s"
    a, b = _summands(rng, 2, 6)
    return _ask(rng, "small-sum", name=name, things=things, a=a, b=b), "", f"{a} + {b} = {a + b}"


@family("larger-number", "arithmetic")
def _larger_number(rng: random.Random) -> Texts:
    a, b = rng.sample(range(10, 100), 2)
    return _ask(rng, "larger-number", a=a, b=b), "", str(max(a, b))


@family("nth-item", "ordering")
def _nth_item(rng: random.Random) -> Texts:
    items = rng.sample(words.ITEMS, rng.randint(3, 5))
    nth = rng.choice(("first", "last"))
    return _ask(rng, "nth-item", nth=nth), ", ".join(items), items[0 if nth == "first" else -1]


@family("next-weekday", "ordering")
def _next_weekday(rng: random.Random) -> Texts:
    name, event, index = rng.choice(words.FIRST_NAMES), rng.choice(words.EVENTS), rng.randrange(7)
    ask = _ask(rng, "next-weekday", name=name, event=event, day=words.WEEKDAYS[index])
    return ask, "", words.WEEKDAYS[(index + 1) % 7]


@family("sentiment", "classification")
def _sentiment(rng: random.Random) -> Texts:
    label = rng.choice(("positive", "negative"))
    review = rng.choice(words.REVIEWS).format(
        item=rng.choice(words.ITEMS),
        city=rng.choice(words.CITIES),
        adjective=rng.choice(words.REVIEW_ADJECTIVES[label]),
        remark=rng.choice(words.REVIEW_REMARKS[label]),
    )
    return _ask(rng, "sentiment"), review, label


@family("opposite", "classification")
def _opposite(rng: random.Random) -> Texts:
    pair = rng.choice(words.OPPOSITES)
    word, answer = pair if rng.random() < 0.5 else pair[::-1]
    return _ask(rng, "opposite", word=word), "", f"The opposite of {word} is {answer}."


@family("word-category", "classification")
def _word_category(rng: random.Random) -> Texts:
    options = rng.sample(list(words.CATEGORIES), 2)
    label = rng.choice(options)
    word = rng.choice(words.CATEGORIES[label])
    return _ask(rng, "word-category", word=word, options=" or ".join(options)), "", label


@family("extract-phone", "extraction")
def _extract_phone(rng: random.Random) -> Texts:
    area = rng.choice(("", f"{rng.randint(201, 989)}-"))
    return _extract(rng, "phone number", f"{area}555-01{rng.randint(0, 99):02}")


@family("lookup-field", "extraction")
def _lookup_field(rng: random.Random) -> Texts:
    fields = _fields(rng, 3)
    key, value = rng.choice(fields)
    return _ask(rng, "lookup-field", key=key), "; ".join(f"{k}: {v}" for k, v in fields), value
