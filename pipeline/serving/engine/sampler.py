"""Chooses the next token of each row from its logits; rows have different settings.

    logits ─ penalties ─> / temperature ─> top-k ─> top-p ─> a uniform number of the request picks the token

The order and the definitions are those of transformers' and vLLM's. A row's choice depends on its logits, its settings
and its random numbers alone, so it is the same in any batch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline.serving.engine.request import GenerationRequest, NewToken

CANDIDATES = 512  # sorted first; the whole vocabulary only where top_p needs more


@dataclass
class RowSampling:
    """What the sampler keeps of one request.

    Attributes:
        in_prompt: (vocabulary,) whether an id is in the prompt; counts: how often in the answer. Only with penalties.
    """

    request: GenerationRequest
    random: random.Random
    in_prompt: torch.Tensor | None = None
    counts: torch.Tensor | None = None

    @classmethod
    def of(cls, request: GenerationRequest, vocabulary: int, device: torch.device) -> RowSampling:
        row = cls(request, random.Random(request.sampling.seed))
        sampling = request.sampling
        if sampling.repetition_penalty != 1 or sampling.frequency_penalty or sampling.presence_penalty:
            row.in_prompt = torch.zeros(vocabulary, dtype=torch.bool, device=device)
            row.in_prompt[torch.tensor(request.ids, device=device)] = True
            row.counts = torch.zeros(vocabulary, device=device)
        return row

    def penalize(self, logits: torch.Tensor) -> None:
        """Changes a row of logits, (vocabulary,), in place."""
        assert self.in_prompt is not None
        assert self.counts is not None
        sampling, answered = self.request.sampling, self.counts > 0
        if sampling.repetition_penalty != 1:
            factor = torch.where(logits < 0, sampling.repetition_penalty, 1 / sampling.repetition_penalty)
            logits.copy_(torch.where(self.in_prompt | answered, logits * factor, logits))
        logits -= sampling.frequency_penalty * self.counts + sampling.presence_penalty * answered

    def add(self, id: int) -> None:
        """Records a token of the answer."""
        if self.counts is not None:
            self.counts[id] += 1


def choose(logits: torch.Tensor, rows: Sequence[RowSampling]) -> list[NewToken | None]:
    """The next token of each row; None where the logits are not finite.

    Args:
        logits: (rows, vocabulary).
    """
    raw = logits.float()
    penalized = [i for i, row in enumerate(rows) if row.counts is not None]
    changed = raw.clone() if penalized else raw
    for i in penalized:
        rows[i].penalize(changed[i])
    best = changed.max(dim=-1)
    ids = best.indices
    drawn = [i for i, row in enumerate(rows) if row.request.sampling.temperature > 0]
    if drawn:
        uniform = [rows[i].random.random() for i in drawn]
        some = changed if len(drawn) == len(rows) else changed[drawn]
        picked = draw(some, [rows[i].request for i in drawn], uniform)
        ids = ids.index_copy(0, torch.tensor(drawn, device=ids.device), picked)
    # One transfer from the card. float64 holds every id.
    pairs = torch.stack([ids.double(), torch.isfinite(best.values).double()]).tolist()
    finite = [bool(value) for value in pairs[1]]
    tokens = [NewToken(int(id)) if good else None for id, good in zip(pairs[0], finite, strict=True)]
    for i, (row, token) in enumerate(zip(rows, tokens, strict=True)):
        if token is None:
            continue
        row.add(token.id)
        if row.request.top_logprobs is not None:
            tokens[i] = _with_logprobs(raw[i], token.id, row.request.top_logprobs)
    return tokens


def draw(logits: torch.Tensor, requests: Sequence[GenerationRequest], uniform: Sequence[float]) -> torch.Tensor:
    """Ids, (rows,), by inversion of the distribution function.

    Args:
        logits: (rows, vocabulary) after penalties. uniform: a number in [0, 1) for each row.
    """
    device = logits.device
    sampling = [request.sampling for request in requests]
    numbers = torch.tensor([[s.temperature, s.top_p, s.top_k or logits.shape[1], u] for s, u in
                            zip(sampling, uniform, strict=True)], dtype=torch.float64, device=device)  # fmt: skip
    scaled = logits / numbers[:, :1].float().clamp(min=1e-6)
    limited = [i for i, s in enumerate(sampling) if s.top_k or s.top_p < 1]
    ids = torch.zeros(len(requests), dtype=torch.long, device=device)
    free = [i for i in range(len(requests)) if i not in set(limited)]
    if free:
        ids[free] = _invert(scaled[free].softmax(dim=-1), numbers[free, 3])
    if limited:
        ids[limited] = _limited(scaled[limited], numbers[limited])
    return ids


def _limited(scaled: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Ids of rows with top-k or top-p. numbers: (rows, 4) temperature, top_p, top_k, uniform."""
    vocabulary = scaled.shape[1]
    top_p, top_k, uniform = numbers[:, 1:2].float(), numbers[:, 2:3].long(), numbers[:, 3]
    count = min(vocabulary, CANDIDATES)
    while True:
        values, order = scaled.topk(count, dim=-1)
        rank = torch.arange(count, device=scaled.device)
        # top-p is of what top-k left.
        inside = values.masked_fill(rank >= top_k, -torch.inf).logsumexp(dim=-1, keepdim=True)
        total = torch.where(top_k >= vocabulary, scaled.logsumexp(dim=-1, keepdim=True), inside)
        probabilities = (values - total).exp().masked_fill(rank >= top_k, 0)
        before = probabilities.cumsum(dim=-1) - probabilities  # of all that are more likely
        kept = (before < top_p) | (rank == 0)
        enough = (top_k <= count) | ~kept[:, -1:]
        if count == vocabulary or bool(enough.all()):
            break
        count = vocabulary
    chosen = _invert(probabilities * kept, uniform)
    return order.gather(1, chosen[:, None])[:, 0]


def _invert(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The first index of each row at which the running sum exceeds the uniform share of its total."""
    sums = weights.double().cumsum(dim=-1)
    found = torch.searchsorted(sums, (uniform * sums[:, -1])[:, None], right=True)[:, 0]
    return found.clamp(max=weights.shape[1] - 1)


def _with_logprobs(raw: torch.Tensor, id: int, count: int) -> NewToken:
    """raw: (vocabulary,) before penalties and temperature."""
    logprobs = raw.log_softmax(dim=-1)
    values, ids = logprobs.topk(min(count, len(logprobs)))
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return NewToken(id, float(logprobs[id]), top)
