"""A model as scorer, for answers that no rule can compare. It sees question, gold and prediction, fenced as data."""

from __future__ import annotations

import functools
import hashlib
import logging
import re
from collections.abc import Sequence

from ..assets import read_config
from ..errors import EndpointError, FatalEndpointError, ScorerError
from ..llm import LLMClient
from ..text import model_text
from .types import NO_ANSWER, NO_VERDICT, Score

logger = logging.getLogger(__name__)

DEFAULT_PROMPT = "default"
MAX_PREDICTION_CHARS = 4_000
"""Part of a prediction that the judge sees."""
REMINDER = "The previous reply contained no verdict. Follow the required format exactly."
ATTEMPTS = 2
"""Maximum number of requests for a verdict before the answer stays unscored."""


class LLMJudge:
    """
    Grades answers with a model, at temperature 0.

    Each text is fenced by tags with a code that is derived from all of them, and the verdict has to be given in a tag
    with that code. A prediction cannot know it, so it can neither close its fence nor write a verdict.

    Args:
        client ([`~aflow_trl.llm.LLMClient`]):
            Client of the judging model.
    """

    def __init__(self, client: LLMClient) -> None:
        self.client = client

    async def score(self, prediction: str, *, question: str, golds: Sequence[str], source: str = "") -> Score:
        """
        Grade one answer.

        Args:
            prediction (`str`):
                Answer to grade.
            question (`str`):
                Question, with its passage if there is one.
            golds (`Sequence[str]`):
                Gold answers, any of which is correct.
            source (`str`, *optional*, defaults to `""`):
                Data set, which selects the prompt in `configs/judge_prompts.yaml`.

        Returns:
            [`Score`]: 1.0 or 0.0. An empty prediction is labelled `no_answer` without calling the model, and one on
                which the judge gives no verdict, or which its endpoint refuses, `no_verdict`.

        Raises:
            [`ScorerError`]: The judge gives no verdict on the gold either. Such an answer is unscored, never 0.
            [`FatalEndpointError`]: The endpoint cannot serve any further call; the run has to stop.
        """
        if not prediction.strip():
            return Score(0.0, "llm_judge", "", NO_ANSWER)
        prediction = model_text(prediction, max_chars=MAX_PREDICTION_CHARS)
        try:
            return await self._verdict(prediction, question, golds, source)
        except ScorerError as error:
            # If the gold can be judged, the judge works, and it is the prediction that has talked it out of a verdict.
            await self._verdict(golds[0][:MAX_PREDICTION_CHARS], question, golds, source)
            try:
                return await self._verdict(prediction, question, golds, source)
            except ScorerError:
                logger.info("no verdict on an answer, but on the gold: %s", error)
                return Score(0.0, "llm_judge", prediction, NO_VERDICT)

    async def _verdict(self, prediction: str, question: str, golds: Sequence[str], source: str) -> Score:
        """
        Ask for a verdict.

        Raises:
            [`ScorerError`]: There is none.
        """
        gold = " | ".join(golds)
        code = hashlib.blake2b(
            "\0".join([question, gold, prediction]).encode(errors="replace"), digest_size=8
        ).hexdigest()
        prompt = _prompt(source, code, question, gold, prediction)
        for attempt in range(ATTEMPTS):
            # The second prompt differs from the first: at temperature 0 an equal one would get an equal reply.
            content = prompt if attempt == 0 else f"{prompt}\n{REMINDER}"
            messages = [{"role": "user", "content": content}]
            try:
                reply = await self.client.complete(messages, seed=attempt, temperature=0.0)
            except FatalEndpointError:
                raise
            except EndpointError as error:
                raise ScorerError(f"the judge is unavailable: {error}") from error
            verdicts = re.findall(rf"<verdict-{code}>\s*(correct|incorrect)\s*</verdict-{code}>", reply.text.lower())
            # The reply may repeat its verdict, but not give both.
            if len(set(verdicts)) == 1:
                return Score(float(verdicts[0] == "correct"), "llm_judge", prediction)
        raise ScorerError(f"the judge gave no verdict in {ATTEMPTS} replies")


def _prompt(source: str, code: str, question: str, gold: str, prediction: str) -> str:
    prompts = _prompts()
    template = prompts.get(source.lower(), prompts[DEFAULT_PROMPT])
    texts = {"question": question, "gold": gold, "prediction": prediction}
    fenced = {name: f"<{name}-{code}>\n{text}\n</{name}-{code}>" for name, text in texts.items()}
    # In a single pass: with successive replacements, a prediction "{gold}" would be filled in.
    filled = re.sub(r"\{(question|gold|prediction)\}", lambda match: fenced[match[1]], template)
    return filled + "\n" + prompts["rules"].replace("{verdict}", f"verdict-{code}")


@functools.cache
def _prompts() -> dict[str, str]:
    prompts: dict[str, str] = read_config("judge_prompts.yaml")
    return prompts
