"""What a preflight has found out about an endpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .config import AUTO, TAGS, ExecutorConfig


@dataclass(frozen=True, slots=True)
class EndpointProfile:
    """How an endpoint serves the requests of a configuration."""

    max_tokens_field: str
    """Name under which the maximum number of tokens is sent."""
    omitted: tuple[str, ...] = ()
    """Parameters that are not sent, because the recipe says so or the endpoint refuses them."""
    renegotiated: tuple[str, ...] = ()
    """What the endpoint refused and the preflight changed, in words."""
    thinking: str = "none"
    """`none`, `text` (separated from the answer), `field`, or `hidden` (only billed)."""
    usage: str = "reported"
    """`reported`, `reasoning in the total only`, or `missing` (estimated)."""
    seed: str = "not sent"
    """`honoured`, `ignored`, `no effect` (equal replies to different seeds), `not sent` or `unknown`."""
    context_tokens: int | None = None
    """Maximum number of tokens of prompt and reply together; `None` if the endpoint does not say."""
    structured: str = TAGS
    """How replies of several fields are asked for: `json_schema` or `json_object` if enforced, else `tags`."""
    malformed: tuple[str, ...] = ()
    """Operators whose reply to a trial was not in the required form."""
    latency_s: float = 0.0
    requests: int = 0
    """HTTP requests of the preflight."""
    usd: float | None = None
    """Their cost; `None` if the price is unknown."""

    def __str__(self) -> str:
        parts = [f"{self.latency_s * 1000:.0f} ms", f"replies: {self.structured}", f"seed {self.seed}"]
        if self.thinking != "none":
            parts.append({"hidden": "thinks unseen", "text": "thinks in the text", "field": "thinks"}[self.thinking])
        if self.usage != "reported":
            parts.append(f"usage: {self.usage}")
        return ", ".join(parts)

    def applied_to(self, config: ExecutorConfig) -> ExecutorConfig:
        """The configuration that the endpoint accepts."""
        structured = config.executor_structured
        return replace(
            config,
            executor_max_tokens_field=self.max_tokens_field,
            executor_omit=list(self.omitted),
            executor_structured=self.structured if structured == AUTO else structured,
        )
