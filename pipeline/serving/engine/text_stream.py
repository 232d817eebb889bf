"""Text of an answer piece by piece while its ids arrive; a piece never holds half a letter. Needs no torch.

A letter outside ASCII is often several tokens, and decoders write U+FFFD for a part of one:

    ids      ED     95     9C      "▁a"
    decoded  �      ��     한      한 a
    pieces   ""     ""     "한"    " a"
"""

from __future__ import annotations

from pipeline.prompt.tokenizer import Tokenizer

HALF = "\ufffd"
LETTER_BYTES = 4  # of UTF-8, at most
LONGEST_DAMAGE = 8  # pending ids after which bytes that cannot become a letter are given out


class TextStream:
    """Decodes the ids of one answer one at a time.

    All pieces together are the tokenizer's `decode` of all ids without the prefix. One difference is deliberate:
    decoders of `tokenizer.json` with byte fallback replace every letter of a run of bytes that has one damaged letter;
    here the whole letters stay.

    Args:
        prefix: what the template puts in front of each answer (`answer_prefix`); removed where the text begins with it.
    """

    def __init__(self, tokenizer: Tokenizer, prefix: str = "") -> None:
        self._tokenizer = tokenizer
        self._prefix = prefix
        self._head: str | None = "" if prefix else None  # text so far, while it may still be the prefix
        self._pending: list[int] = []
        self._given = 0  # characters of the pending ids that were given out
        # Decoders remove the space in front of a text. Ids in the middle are decoded after ids of a known text.
        self._opens = True
        self._lead = tokenizer.encode_after(["a"])[0]
        self._lead_length = len(tokenizer.decode(self._lead))

    def push(self, id: int) -> str:
        """The text that this id completes, often empty. Special ids have none."""
        if id in self._tokenizer.special_ids:
            piece = self._rest()
            self._opens = True  # as `decode`, which decodes the ids between special ones separately
            return self._without_prefix(piece)
        self._pending.append(id)
        text = self._decode(self._pending)
        if self._opens and not text:
            return ""  # a space at the start: whether the next one is removed too differs between decoders
        text = self._with_last_letter(text)
        whole = text.rstrip(HALF)
        piece = whole[self._given :]
        self._given = max(self._given, len(whole))
        if whole == text:
            self._clear()
        elif len(self._pending) > LONGEST_DAMAGE:
            piece += self._damaged(text)
        return self._without_prefix(piece)

    def finish(self) -> str:
        """The rest, at the end of the answer; U+FFFD for a letter that was cut off."""
        piece = self._without_prefix(self._rest())
        if self._head is None:
            return piece
        rest, self._head = self._head, None
        return rest.removeprefix(self._prefix)

    def _decode(self, ids: list[int]) -> str:
        if self._opens:
            return self._tokenizer.decode(ids)
        return self._decode_after(ids)

    def _decode_after(self, ids: list[int]) -> str:
        return self._tokenizer.decode([*self._lead, *ids])[self._lead_length :]

    def _with_last_letter(self, text: str) -> str:
        """The text of the pending ids, with the letter that decoders with byte fallback lose after a damaged one."""
        if text.endswith(HALF):
            for count in range(2, min(LETTER_BYTES + 1, len(self._pending))):
                letter = self._decode_after(self._pending[-count:])
                if HALF not in letter:
                    return self._decode(self._pending[:-count]) + letter
        return text

    def _clear(self) -> None:
        self._pending, self._given, self._opens = [], 0, False

    def _rest(self) -> str:
        rest = self._decode(self._pending)[self._given :] if self._pending else ""
        self._clear()
        return rest

    def _damaged(self, text: str) -> str:
        """Gives out pending ids that cannot be part of a letter any more, so that their number is bounded."""
        for count in range(len(self._pending) - LETTER_BYTES + 1, 0, -1):
            first = self._decode(self._pending[:count])
            rest = self._pending[count:]
            if len(first) >= self._given and first + self._decode_after(rest) == text:
                piece = first[self._given :]
                self._clear()
                self._pending = rest
                return piece
        return self._rest()

    def _without_prefix(self, piece: str) -> str:
        if self._head is None:
            return piece
        self._head += piece
        if len(self._head) < len(self._prefix) and self._prefix.startswith(self._head):
            return ""
        text, self._head = self._head.removeprefix(self._prefix), None
        return text
