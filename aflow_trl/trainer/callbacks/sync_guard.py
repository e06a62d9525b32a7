"""Detection of rollouts that do not come from the parameters that are trained."""

from __future__ import annotations

import logging
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig

logger = logging.getLogger(__name__)

NEUTRAL_GENERATION_KWARGS = frozenset(
    {"stop", "stop_strings", "stop_token_ids", "include_stop_str_in_output", "max_tokens", "seed", "detokenize"}
    | {"skip_special_tokens", "spaces_between_special_tokens"}
)
"""Arguments of vLLM's sampling that leave the distribution of the next token as it is."""
STALE_GENERATIONS = 3
"""Consecutive generations with log-probabilities too far off after which a run stops: one may be an odd batch."""


def unchecked_because(args: GRPOConfig) -> str | None:
    """
    Why the log-probabilities of vLLM and the trainer cannot be compared; `None` if they can.

    A distribution that was cut down or reshaped has other log-probabilities than the model's.
    """
    if not args.vllm_importance_sampling_correction:
        return "vllm_importance_sampling_correction is off, so TRL does not compare log-probabilities"
    changes = {
        "vllm_structured_outputs_regex": args.vllm_structured_outputs_regex is not None,
        "top_p": args.top_p < 1.0,
        "top_k": bool(args.top_k),
        "min_p": bool(args.min_p),
        "repetition_penalty": args.repetition_penalty != 1.0,
    }
    names = [name for name, is_changed in changes.items() if is_changed]
    names += sorted((args.generation_kwargs or {}).keys() - NEUTRAL_GENERATION_KWARGS)
    return f"{', '.join(names)} changes the distribution that vLLM samples from" if names else None


class SyncGuard(TrainerCallback):
    """
    Checks that the rollouts of vLLM come from the parameters that are trained.

    vLLM holds weights of its own, which TRL updates before every generation. If that fails without an error, training
    continues on the rollouts of an old policy. The symptom: the log-probabilities that vLLM reports are not the
    trainer's.

    Args:
        limit (`float`):
            Maximum mean absolute difference, in nats per token.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.reason: str | None = None
        """Why training was stopped; `None` if it was not."""
        self._stale = 0
        self._latest = 0.0

    def check(self, difference: float) -> bool:
        """Whether the difference of a generation exceeds the limit."""
        # Written so that NaN counts as stale.
        stale = not difference <= self.limit
        self._stale, self._latest = (self._stale + 1 if stale else 0), difference
        if stale:
            logger.warning(
                "log-probabilities of the rollouts differ from the trainer's by %.3f nats per token on average, above "
                "max_sampling_logp_difference %g: do they come from the current parameters?",
                difference,
                self.limit,
            )
        return stale

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Stop the run after several stale generations in a row; all processes have seen the same mean."""
        if self._stale >= STALE_GENERATIONS:
            self.reason = (
                f"the rollouts of the last {self._stale} generations do not come from the current parameters: their "
                f"log-probabilities differ by {self._latest:.3f} nats per token on average from the trainer's "
                f"(max_sampling_logp_difference {self.limit:g}). The weights do not reach vLLM, or it computes in "
                "another precision: check that dtype and quantization are the same on both sides"
            )
            control.should_save = control.should_training_stop = True
        return control
