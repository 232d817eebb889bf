"""One chat: a model, the conversation so far, and how answers are sampled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from pipeline.config.schema import Chat
from pipeline.dataset.example import Example
from pipeline.dataset.turn import Turn
from pipeline.evaluation.shots import ChatShots
from pipeline.model.generate import answering, most_tokens
from pipeline.prompt.chat_encode import ChatEncoder
from pipeline.prompt.chat_form import THINK
from pipeline.run.errors import UserError
from pipeline.run.files import sha256_json
from pipeline.serving.terminal.models import ChatModel
from pipeline.serving.terminal.screen import AnswerStream

COLDEST = 1e-4  # temperature; below it logits overflow, and the most likely token is taken


class NotFinite(Exception):
    """The model gave NaN or infinity."""


@dataclass(frozen=True)
class Exchange:
    """A question with its answer. given: the row's `input`. ended: the model ended the answer itself."""

    question: str
    given: str
    answer: str
    ended: bool


@dataclass
class ChatSession:
    """A model that answers questions.

    Attributes:
        talker: the model, with its template. settings: sampling and the longest answer.
        system: system message. thinks: the template is asked for its thinking mode.
        exchanges: the conversation; a template of single questions sees none of it.
    """

    talker: ChatModel
    settings: Chat
    system: str = ""
    thinks: bool = False
    exchanges: list[Exchange] = field(default_factory=list)
    _tries: int = 0  # answers to the same question before

    @property
    def remembers(self) -> bool:
        """Whether the model sees earlier turns: with a chat template."""
        return isinstance(self.talker.encoder, ChatEncoder)

    @property
    def can_think(self) -> bool:
        """Whether the template has a thinking mode."""
        encoder = self.talker.encoder
        return isinstance(encoder, ChatEncoder) and encoder.form.thinks

    def reset(self) -> None:
        """Begins a new conversation with the same system message."""
        self.exchanges.clear()

    def messages(self) -> list[dict[str, str]]:
        """The conversation as OpenAI has it."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for past in self.exchanges:
            question = _joined(past.question, past.given)
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": past.answer}]
        return messages

    def again(self) -> str:
        """Answers the latest question once more, in place of the answer that it has; as `answer`."""
        latest = self.exchanges.pop()
        self._tries += 1
        count = len(self.exchanges)
        try:
            return self._answer(latest.question, latest.given)
        finally:
            if len(self.exchanges) == count:  # there is no other answer
                self.exchanges.append(latest)

    def answer(self, question: str, given: str) -> str:
        """Streams one answer; returns why it ended early, empty when it ended with the end token.

        Ctrl-C ends the answer, not the chat. What there is of a stopped answer belongs to the conversation.

        Args:
            given: the row's `input`.
        """
        self._tries = 0
        return self._answer(question, given)

    @torch.inference_mode()
    def _answer(self, question: str, given: str) -> str:
        talker, settings = self.talker, self.settings
        model, end = talker.model, talker.encoder.end_id
        stream = AnswerStream(talker.tokenizer, skip_special_tokens=True)
        try:
            prompt = self._prompt(question, given)
            longest = most_tokens(model)
            room = min(settings.max_new_tokens, longest - len(prompt))
            if room < 1:
                more = "; /reset begins a new conversation" if self.remembers and self.exchanges else ""
                sees = f"it sees {longest:,}, its answer included"
                return f"{len(prompt):,} tokens are too long for this model: {sees}{more}"
            ids = torch.tensor([prompt], device=model.device)
            if self._is_opened:
                print(THINK)
            with answering(model):
                model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=room, eos_token_id=end,
                    pad_token_id=end, streamer=stream, **self._sampling(),
                )  # fmt: skip
        except UserError as error:
            return error.what
        except KeyboardInterrupt:
            stream.stop()
            if talker.encoder.tokenizer.decode(stream.ids).strip():
                self._keep(question, given, stream.ids, ended=False)
            return "stopped"
        except NotFinite:
            return "the model's logits are not finite (NaN): train again with a lower train.lr"
        except torch.cuda.OutOfMemoryError:
            return "the card's memory is too small for this conversation; /reset begins a new one"
        ended = stream.ids[-1:] == [end]
        self._keep(question, given, stream.ids[:-1] if ended else stream.ids, ended)
        if ended:
            return ""
        is_setting = room == settings.max_new_tokens
        fix = "/set max_new_tokens N allows more"
        return f"cut off after {room} tokens; {fix if is_setting else 'the context of the model ends here'}"

    def _prompt(self, question: str, given: str) -> list[int]:
        """Ids of the question with what stands before it.

        Raises:
            UserError: the template refuses the conversation.
        """
        encoder, shots = self.talker.encoder, self.talker.shots
        if isinstance(encoder, ChatEncoder) and not shots:
            asked = {"role": "user", "content": _joined(question, given)}
            return encoder.prompt_of([*self.messages(), asked], thinks=self.thinks and self.can_think)
        if self.system and not self.remembers:  # as the data stage writes conversations
            question = f"{self.system}\n\n{question}"
        if isinstance(shots, ChatShots):
            return shots.prompt(self._whole(question, given), shots.chosen(self._first(question, given)))
        example = Example.of(question, given, "", source="chat")
        return shots.prompt(example) if shots else encoder.prompt_for(example)

    def _first(self, question: str, given: str) -> Example:
        """The first question of the conversation, for which examples are chosen."""
        first = self.exchanges[0] if self.exchanges else Exchange(question, given, "", False)
        return Example.of(first.question, first.given, "", source="chat", system=self.system)

    def _whole(self, question: str, given: str) -> Example:
        """The conversation with a question that has no answer yet."""
        earlier = [Turn(m["role"], m["content"]) for m in self.messages() if m["role"] != "system"]
        turns = [*earlier, Turn("user", _joined(question, given)), Turn("assistant", "")]
        return Example.whole(turns, source="chat", system=self.system)

    @property
    def _is_opened(self) -> bool:
        """Whether the prompt itself begins the reasoning of the answer."""
        encoder = self.talker.encoder
        return self.thinks and isinstance(encoder, ChatEncoder) and encoder.form.opens_thinking

    def _sampling(self) -> dict[str, Any]:
        """What `generate` is told about the choice of tokens."""
        settings = self.settings
        told: dict[str, Any] = {
            "do_sample": settings.temperature > COLDEST, "logits_processor": LogitsProcessorList([_FiniteOnly()])
        }  # fmt: skip
        if settings.repetition_penalty != 1:
            told["repetition_penalty"] = settings.repetition_penalty
        if told["do_sample"]:
            told |= {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k}
            if settings.seed is None:
                torch.seed()
            else:  # another one for each turn and for each /regen
                name = [settings.seed, len(self.exchanges), self._tries]
                torch.manual_seed(int(sha256_json(name)[:15], 16))
        return told

    def _keep(self, question: str, given: str, ids: list[int], ended: bool) -> None:
        """Adds an answer to the conversation."""
        text = self.talker.encoder.tokenizer.decode(ids)
        if not ended:
            text = text.rstrip("\ufffd")  # a letter of which a part is missing
        if self._is_opened:
            text = f"{THINK}\n{text}"
        self.exchanges.append(Exchange(question, given, text, ended))


def _joined(question: str, given: str) -> str:
    return f"{question}\n\n{given}" if given else question


class _FiniteOnly(LogitsProcessor):
    """Ends generation where the model gives NaN, from which nothing can be sampled."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if bool(torch.isnan(scores).any() | torch.isposinf(scores).any()):
            raise NotFinite
        return scores
