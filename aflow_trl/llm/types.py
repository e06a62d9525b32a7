"""Data types of the executor's client: messages, replies, token usage and prices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Messages: TypeAlias = list[dict[str, str]]
"""Chat messages, each with `role` and `content`."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a call is billed for, according to its reply."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens served from the endpoint's prompt cache, usually at a lower price."""
    estimated: bool = False
    """Whether the reply reported no usage, and the numbers are estimated from the length of the text."""
    hidden_tokens: int = 0
    """Completion tokens that only the total counts, as some endpoints count reasoning; included above."""
    cost_usd: float | None = None
    """What the endpoint says that the call costs; `None` if it says nothing."""

    @property
    def total(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply that a workflow can continue with."""

    text: str
    finish_reason: str
    usage: Usage
    attempts: int = 1
    """HTTP requests sent, including failed ones; 0 for a reply from the disk cache."""
    wall_s: float = 0.0
    """Seconds from the first request to the reply, without the waits for our own limits."""
    queued_s: float = 0.0
    """Seconds that the requests waited for our own limits."""
    cached: bool = False
    """Whether it comes from the disk cache, and so costs nothing."""
    thinking: str = ""
    """What a reasoning model thought before its answer, where the endpoint shows it."""
    thinks_in_text: bool = False
    """Whether the endpoint put the thinking into the text, from which it has been separated."""

    @property
    def truncated(self) -> bool:
        """Whether the text was cut at the maximum number of tokens."""
        return self.finish_reason == "length"

    @property
    def refused(self) -> bool:
        """Whether the model or a content filter returned no text."""
        return (not self.text.strip() and not self.truncated) or self.finish_reason == "content_filter"

    @property
    def thought_out(self) -> bool:
        """Whether all tokens went into thinking: the reply was cut before its answer began."""
        return self.truncated and not self.text.strip()


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens. `None` means unknown, which is never treated as free."""

    input_usd: float | None
    output_usd: float | None
    cached_usd: float | None = None
    """Prompt tokens from the endpoint's prompt cache; `None` means the price of other prompt tokens."""

    def cost(self, usage: Usage) -> float | None:
        """USD of a call; `None` if a price is unknown."""
        if self.input_usd is None or self.output_usd is None:
            return None
        cached_usd = self.input_usd if self.cached_usd is None else self.cached_usd
        uncached_tokens = usage.prompt_tokens - usage.cached_tokens
        prompt = uncached_tokens * self.input_usd + usage.cached_tokens * cached_usd
        return (prompt + usage.completion_tokens * self.output_usd) / 1e6
