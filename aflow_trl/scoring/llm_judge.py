"""A model as scorer, for answers that no rule can compare. Sees question, gold and prediction, each fenced as data."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence

from ..assets import read_config
from ..errors import EndpointError, FatalEndpointError, ScorerError
from ..llm import LLMClient
from .types import NO_ANSWER, Score

DEFAULT_PROMPT = "default"
MAX_PREDICTION_CHARS = 4_000
REMINDER = "The last reply held no verdict. Keep to the form exactly."
ATTEMPTS = 2
"""Replies asked for before the judge counts as broken."""


class LLMJudge:
    """
    Grades answers with a model, at temperature 0.

    The prediction is fenced by tags with a code that is derived from all the texts, and the verdict has to stand in a
    tag with that code: a prediction can neither close its fence nor write a verdict.

    Args:
        client ([`~aflow_trl.llm.LLMClient`]):
            The judging model.
    """

    def __init__(self, client: LLMClient) -> None:
        self.client = client

    async def score(self, prediction: str, *, question: str, golds: Sequence[str], source: str = "") -> Score:
        """
        Grade one answer.

        Args:
            prediction (`str`):
                The answer.
            question (`str`):
                What was asked, with its passage if there is one.
            golds (`Sequence[str]`):
                Gold answers; any of them is right.
            source (`str`, *optional*, defaults to `""`):
                Data set, which picks the prompt of `configs/judge_prompts.yaml`.

        Returns:
            [`Score`]: 1.0 or 0.0; label `no_answer` for an empty prediction, which is not sent.

        Raises:
            [`ScorerError`]: The judge was not available or gave no verdict. Never a reason for a 0.
            [`FatalEndpointError`]: The endpoint can serve no further call; the run has to stop.
        """
        if not prediction.strip():
            return Score(0.0, "llm_judge", "", NO_ANSWER)
        prediction = prediction[:MAX_PREDICTION_CHARS]
        gold = " | ".join(golds)
        code = hashlib.blake2b(
            "\0".join([question, gold, prediction]).encode(errors="replace"), digest_size=8
        ).hexdigest()
        prompt = _prompt(source, code, question, gold, prediction)
        for attempt in range(ATTEMPTS):
            # Asked again in other words: the greedy reply to the same ones would be the same.
            asked = prompt if attempt == 0 else f"{prompt}\n{REMINDER}"
            messages = [{"role": "user", "content": asked}]
            try:
                reply = await self.client.complete(messages, seed=attempt, temperature=0.0)
            except FatalEndpointError:
                raise
            except EndpointError as error:
                raise ScorerError(f"the judge is not available: {error}") from error
            verdicts = re.findall(rf"<verdict-{code}>\s*(correct|incorrect)\s*</verdict-{code}>", reply.text.lower())
            if len(set(verdicts)) == 1:
                return Score(float(verdicts[0] == "correct"), "llm_judge", prediction)
        raise ScorerError("the judge gave no verdict")


def _prompt(source: str, code: str, question: str, gold: str, prediction: str) -> str:
    prompts = _prompts()
    template = prompts.get(source.lower(), prompts[DEFAULT_PROMPT])
    texts = {"question": question, "gold": gold, "prediction": prediction}
    fenced = {name: f"<{name}-{code}>\n{text}\n</{name}-{code}>" for name, text in texts.items()}
    # Texts are filled in at once, so that braces in one of them cannot name another.
    filled = re.sub(r"\{(question|gold|prediction)\}", lambda match: fenced[match[1]], template)
    return filled + "\n" + prompts["rules"].replace("{verdict}", f"verdict-{code}")


@functools.cache
def _prompts() -> dict[str, str]:
    prompts: dict[str, str] = read_config("judge_prompts.yaml")
    return prompts
