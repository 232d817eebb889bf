"""Either kind of encoder: of templates for rows, or of chat templates."""

from __future__ import annotations

from pipeline.prompt.chat_encode import ChatEncoder
from pipeline.prompt.encode import Encoder

AnyEncoder = Encoder | ChatEncoder
