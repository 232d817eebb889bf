"""Filters of drafts and rows, in this order; each has a name, under which rejected ones are counted.

    instruction-empty, output-empty, too-short, too-long
    the cleaning rules of `pipeline/dataset/clean` (synthesis.rules), among them refusal and wrong-language
    wrong-script
    not-novel      ROUGE-L of the instruction with a seed or one that passed
    duplicate      the same texts as one that passed
    contaminated   a question of a benchmark

Drafts of the first phase are compared with drafts, rows of the second with rows: each comes in an order of its own, and
a draft may be decided on before or after a row of an earlier item is.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.config.synthesis import Synthesis
from pipeline.dataset.clean.finding import FIELDS
from pipeline.dataset.clean.rule import Cleaner, Texts
from pipeline.dataset.language import SCRIPTS, WORDS, language_of
from pipeline.dataset.read.benchmark import read_all
from pipeline.dataset.select.contamination import QuestionIndex
from pipeline.dataset.select.rouge_tokens import tokens
from pipeline.dataset.select.text_units import fingerprint, hashes, normalise, units
from pipeline.run.errors import UserError
from pipeline.run.progress import say
from pipeline.run.width import excerpt
from pipeline.synthesis.classification import GROUP
from pipeline.synthesis.evolve import EVOLVED
from pipeline.synthesis.language_names import name_of
from pipeline.synthesis.novelty_pool import NoveltyPool
from pipeline.synthesis.request import Draft
from pipeline.synthesis.script_check import ALLOWED, is_known, reject_foreign
from pipeline.synthesis.seeds import read_seeds

SIMILAR = "similar"
"""Note of a rejected draft: the instruction that is most similar to its own, and their ROUGE-L."""
FEWEST = 8  # letters and digits of an instruction; a Hangul, kana or Han letter counts as two
SHOWN = 200  # characters of a text in a reason


class DraftFilters:
    """The filters of a run.

    Raises:
        UserError: a rule in the config does not exist, or seeds or benchmarks cannot be read.
    """

    def __init__(self, settings: Synthesis) -> None:
        self.settings = settings
        try:
            self._clean = Cleaner("standard", {"refusal": "on", **settings.rules})
        except UserError as error:
            raise UserError(error.what, "synthesis.rules", error.fix) from None
        self._expected = detected_as(settings.language)
        self._questions = read_all(settings.benchmarks)
        self._index = QuestionIndex.of(self._questions) if self._questions else None
        seeds = [seed.instruction for seed in read_seeds(settings)] if settings.method == "self-instruct" else []
        self._drafts = _Passed(settings, seeds)
        self._rows = _Passed(settings, seeds if settings.evolve.rounds else [])
        if missing := missing_rules(settings):
            say(missing)

    def draft(self, draft: Draft) -> Draft:
        """A draft of the first phase. What it has no output for is checked when it is a row."""
        draft = self._sound(draft, has_output=bool(draft.output) or self.settings.method == "self-instruct")
        is_compared = self.settings.method != "translate"  # there the rows are the user's own choice
        return self._new(draft, self._drafts, is_compared)

    def row(self, row: Draft) -> Draft:
        """A finished row. Its instruction is compared again only where there are evolved ones."""
        row = self._sound(row, has_output=True)
        if not row.rejected:
            row = reject_foreign(self.settings, row)
        is_compared = EVOLVED in row.notes or self.settings.method != "translate"
        return self._new(row, self._rows, is_compared and self.settings.evolve.rounds > 0)

    def _sound(self, draft: Draft, has_output: bool) -> Draft:
        """Cleaned; rejected where the draft is bad by itself."""
        draft = _of_fit_length(draft, self.settings.longest, has_output)
        if draft.rejected or not has_output:
            return draft
        cleaned = self._clean(Texts(draft.instruction, draft.input, draft.output), self._expected)
        if cleaned.rejected:
            return draft.reject(*cleaned.rejected)
        return replace(draft, **cleaned.texts._asdict())

    def _new(self, draft: Draft, passed: _Passed, is_compared: bool) -> Draft:
        """Rejected where it is like one that passed, or holds a question of a benchmark; else it has passed."""
        if not draft.rejected and is_compared:
            draft = passed.reject_similar(draft)
        if not draft.rejected:
            draft = passed.reject_equal(draft)
        if not draft.rejected:
            draft = self._reject_contaminated(draft)
        if not draft.rejected:
            passed.add(draft)
        return draft

    def _reject_contaminated(self, draft: Draft) -> Draft:
        if self._index is None:
            return draft
        text = f"{draft.instruction}\n{draft.input}\n{draft.output}"
        hits = self._index.find([hashes(units(text))])[0]
        return draft.reject("contaminated", hits[0].reason(self._questions)) if hits else draft


class _Passed:
    """Drafts, or rows, that passed, and the seeds."""

    def __init__(self, settings: Synthesis, seeds: list[str]) -> None:
        self.threshold = settings.novelty
        self._pool = NoveltyPool()
        self._instructions: list[str] = []
        self._numbers: dict[str, int] = {}
        self._groups: set[str] = set()
        self._texts: set[int] = set()
        for seed in seeds:
            self._add_instruction(seed)

    def add(self, draft: Draft) -> None:
        self._texts.add(_fingerprint(draft))
        group = draft.notes.get(GROUP)
        if group is None or group not in self._groups:
            self._add_instruction(draft.instruction)
        if group is not None:
            self._groups.add(group)

    def reject_similar(self, draft: Draft) -> Draft:
        """The rule `not-novel`: compared by ROUGE-L; rows of one group, and an evolved row with those that it came
        from, are not compared."""
        if not self.threshold or (GROUP in draft.notes and draft.notes[GROUP] in self._groups):
            return draft
        parents = [self._numbers.get(normalise(text), -1) for text in draft.notes.get(EVOLVED, ())]
        words = tokens(draft.instruction, language_of(draft.instruction))
        if (like := self._pool.nearest(words, self.threshold, parents)) is None:
            return draft
        text = self._instructions[like.number]
        rejected = draft.reject("not-novel", f"its instruction has ROUGE-L {like.f:.2f} with: {excerpt(text, SHOWN)}")
        return replace(rejected, notes={**draft.notes, SIMILAR: {"instruction": text, "rouge_l": round(like.f, 4)}})

    def reject_equal(self, draft: Draft) -> Draft:
        """The rule `duplicate`."""
        if _fingerprint(draft) in self._texts:
            return draft.reject("duplicate", "the same instruction, input and output were kept before")
        return draft

    def _add_instruction(self, text: str) -> None:
        if self.threshold:
            number = self._pool.add(tokens(text, language_of(text)))
            self._instructions.append(text)
            self._numbers.setdefault(normalise(text), number)


def detected_as(language: str) -> str:
    """What `language_of` calls texts of a language, for the rule `wrong-language`; empty where it does not know it."""
    if language in WORDS or language in SCRIPTS or language in ("ja", "zh"):
        return language
    scripts = ALLOWED.get(language, ())
    return scripts[0] if len(scripts) == 1 else ""


def missing_rules(settings: Synthesis) -> str:
    """What cannot be checked in the language of the rows, for the terminal; empty where all can."""
    language = settings.language
    missing = [] if detected_as(language) else ["rows in another language (wrong-language)"]
    if settings.keep_scripts and not is_known(language):
        missing.append("foreign scripts (wrong-script)")
    if not missing:
        return ""
    return f"generate: there are no rules for {name_of(language)} that find {' and '.join(missing)}"


def _of_fit_length(draft: Draft, longest: int, has_output: bool) -> Draft:
    if not draft.instruction.strip():
        return draft.reject("instruction-empty", "the instruction is empty")
    if has_output and not draft.output.strip():
        return draft.reject("output-empty", "the output is empty")
    signs = [letter for letter in draft.instruction if letter.isalnum()]
    if sum(2 if letter >= "\u1100" else 1 for letter in signs) < FEWEST:
        return draft.reject("too-short", f"the instruction has only {len(signs)} letters")
    for field in FIELDS:
        if (length := len(getattr(draft, field))) > longest:
            return draft.reject("too-long", f"{field} has {length:,} characters, more than {longest:,}")
    return draft


def _fingerprint(draft: Draft) -> int:
    return fingerprint("\x1f".join(map(normalise, (draft.instruction, draft.input, draft.output))))
