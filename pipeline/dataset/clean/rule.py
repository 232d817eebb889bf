"""The list of rules, in the order in which they run, and the class that applies them to a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.config.schema import Action
from pipeline.dataset.clean.arithmetic import wrong_arithmetic
from pipeline.dataset.clean.characters import control_characters, literal_escapes, replacement_character
from pipeline.dataset.clean.copies import instruction_in_output, output_is_input, output_is_instruction
from pipeline.dataset.clean.endings import cut_off, too_repetitive
from pipeline.dataset.clean.finding import FIELDS, Finding, Texts
from pipeline.dataset.clean.instructions import missing_input, unclear_instruction
from pipeline.dataset.clean.marks import calculator_marks, merged_instructions, template_markers
from pipeline.dataset.clean.media_tasks import drawing_task, image_task, url_task
from pipeline.dataset.clean.mojibake import mojibake
from pipeline.dataset.clean.personal import personal_data
from pipeline.dataset.clean.placeholders import empty_code, no_input_spelling, output_empty, output_not_available
from pipeline.dataset.clean.refusals import refusal
from pipeline.dataset.clean.wrong_language import wrong_language
from pipeline.run.errors import UserError
from pipeline.run.nearest import nearest

MOST_PASSES = 5  # after a fix an earlier rule may find something; more passes were never needed in practice


@dataclass(frozen=True, slots=True)
class Rule:
    """A named check. function: of the texts, or (by_source) of the texts and the language of their source."""

    name: str
    default: Action
    function: Callable[..., Finding | None]
    by_source: bool = False

    def look(self, texts: Texts, expected: str = "") -> Finding | None:
        """The finding in a row, or None. expected: language of its source, empty for any."""
        if not self.by_source:
            return self.function(texts)
        return self.function(texts, expected) if expected else None

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (self.function.__doc__ or "").strip().split("\n")[0]


@dataclass(frozen=True, slots=True)
class Change:
    """What a rule did to a row, or (flagged) would have done.

    before, after: the fields that changed. If flagged, `before` is an excerpt around the finding.
    """

    rule: str
    action: Literal["fixed", "flagged"]
    reason: str
    before: dict[str, str]
    after: dict[str, str]


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A row after the rules. rejected: the first rule that rejected it, and the reason."""

    texts: Texts
    changes: tuple[Change, ...]
    rejected: tuple[str, str] | None


# Rules that fix come first, so that the others see the fixed text. Mojibake comes before control characters, since half
# of its bytes are control characters. A default is `on` if at least 95 of 100 hits were right, in Alpaca and in the
# other data sets of docs/data.md.
RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("mojibake", "on", mojibake),
        Rule("control-characters", "on", control_characters),
        Rule("literal-escapes", "on", literal_escapes),
        Rule("calculator-marks", "on", calculator_marks),
        Rule("no-input-spelling", "on", no_input_spelling),
        Rule("merged-instructions", "on", merged_instructions),
        Rule("output-not-available", "on", output_not_available),
        Rule("instruction-in-output", "on", instruction_in_output),
        Rule("personal-data", "warn", personal_data),
        Rule("output-empty", "on", output_empty),
        Rule("replacement-character", "on", replacement_character),
        Rule("empty-code", "on", empty_code),
        Rule("refusal", "warn", refusal),
        Rule("image-task", "on", image_task),
        Rule("url-task", "on", url_task),
        Rule("drawing-task", "warn", drawing_task),
        Rule("unclear-instruction", "on", unclear_instruction),
        Rule("missing-input", "warn", missing_input),
        Rule("output-is-instruction", "on", output_is_instruction),
        Rule("output-is-input", "warn", output_is_input),
        Rule("wrong-arithmetic", "warn", wrong_arithmetic),
        Rule("cut-off", "warn", cut_off),
        Rule("too-repetitive", "on", too_repetitive),
        Rule("wrong-language", "on", wrong_language, by_source=True),
        Rule("template-markers", "warn", template_markers),
    )
}


class Cleaner:
    """Applies the rules to one row at a time. Picklable.

    Args:
        clean: `standard` = every rule as its default says, `none` = all off.
        rules: actions by name, on top of `clean`.

    Raises:
        UserError: a name in `rules` is not a rule.
    """

    def __init__(self, clean: Literal["standard", "none"], rules: Mapping[str, Action]) -> None:
        for name in rules:
            if name not in RULES:
                fix = nearest(name, RULES, f"the rules are: {', '.join(RULES)}", alike=0.4)
                raise UserError(f"no such cleaning rule: {name!r}", "data.rules", fix)
        defaults = {name: rule.default if clean == "standard" else "off" for name, rule in RULES.items()}
        self.actions: dict[str, Action] = {**defaults, **rules}
        self._names = [name for name in RULES if self.actions[name] != "off"]

    def __call__(self, texts: Texts, expected: str = "") -> Cleaned:
        """Cleans one row; `expected` is the language its source should be in, empty = any.

        After a fix the rules run again until nothing changes, so that cleaning is idempotent.
        """
        fixed: list[Change] = []
        for _ in range(MOST_PASSES):
            result, flagged, rejected = self._pass(texts, expected, fixed)
            if result == texts or rejected:
                break
            texts = result
        return Cleaned(result, (*fixed, *flagged), rejected)

    def _pass(
        self, texts: Texts, expected: str, fixed: list[Change]
    ) -> tuple[Texts, list[Change], tuple[str, str] | None]:
        """All rules once; adds to `fixed`."""
        flagged: list[Change] = []
        for name in self._names:
            rule = RULES[name]
            finding = rule.look(texts, expected)
            if finding is None:
                continue
            if self.actions[name] == "warn":
                flagged.append(Change(name, "flagged", finding.reason, {finding.field: finding.excerpt(texts)}, {}))
            elif finding.texts is None:
                return texts, flagged, (name, finding.reason)
            else:
                changed = [f for f in FIELDS if getattr(texts, f) != getattr(finding.texts, f)]
                before = {f: str(getattr(texts, f)) for f in changed}
                after = {f: str(getattr(finding.texts, f)) for f in changed}
                fixed.append(Change(name, "fixed", finding.reason, before, after))
                texts = finding.texts
        return texts, flagged, None
