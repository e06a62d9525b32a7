"""The domains of problems: those that ship, and those that a user adds with a scorer of their own."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import FatalEndpointError, RecipeError, ScorerError
from ..user_modules import import_user_modules
from .types import TOO_COMPLEX, Score

BUILTIN_DOMAINS = ("math", "code", "qa")
ScorerFunction: TypeAlias = Callable[[str, Sequence[str], str], "float | Score | Awaitable[float | Score]"]
"""From answer, gold answers and question to a credit in [0, 1], or a [`Score`]; may be a coroutine function."""


@dataclass(frozen=True, slots=True)
class CustomDomain:
    """A domain that [`scorer`] has added."""

    name: str
    description: str
    """What its problems are, for prompts."""
    function: ScorerFunction

    async def score(self, answer: str, *, golds: Sequence[str], question: str) -> Score:
        """
        Score an answer.

        Args:
            answer (`str`):
                Answer of a workflow.
            golds (`Sequence[str]`):
                The row's `answer`, at least one.
            question (`str`):
                Text of the problem.

        Returns:
            [`Score`]: The function's; 0 labelled `too_complex` if it raises for this answer, but not for the gold.

        Raises:
            [`ScorerError`]: The function raises for the gold too, or returns something else than a credit in [0, 1].
        """
        try:
            return await self._call(answer, golds, question)
        except (ScorerError, FatalEndpointError):
            raise
        except Exception:  # of any kind: whatever a text of a model makes a scorer raise
            await self.check(golds, question)
            return Score(0.0, "failed", answer, TOO_COMPLEX)

    async def check(self, golds: Sequence[str], question: str) -> Score:
        """
        Score the first gold answer, which a scorer that works can do.

        Raises:
            [`ScorerError`]: The function raises, or returns something else than a credit in [0, 1].
        """
        try:
            return await self._call(golds[0], golds, question)
        except (ScorerError, FatalEndpointError):
            raise
        except Exception as error:
            raise ScorerError(
                f"the scorer of {self.name!r} fails for the gold {golds[0][:80]!r}: {type(error).__name__}: {error}"
            ) from error

    async def _call(self, answer: str, golds: Sequence[str], question: str) -> Score:
        if inspect.iscoroutinefunction(self.function):
            result = await self.function(answer, golds, question)
        else:
            # In a thread, because it may compute or wait.
            result = await asyncio.to_thread(self.function, answer, golds, question)
        if isinstance(result, Score):
            score = result
        elif isinstance(result, int | float):
            score = Score(float(result), self.name, answer, partial=float(result))
        else:
            raise ScorerError(f"the scorer of {self.name!r} returns {result!r}; return a number in [0, 1] or a Score.")
        if not math.isfinite(score.value) or not 0 <= score.value <= 1:
            raise ScorerError(f"the scorer of {self.name!r} returns {score.value}; the credit is in [0, 1].")
        return score


_CUSTOM: dict[str, CustomDomain] = {}


def known_domains() -> tuple[str, ...]:
    """Names of all domains: the built-in ones, then those that [`scorer`] has added in this process."""
    return (*BUILTIN_DOMAINS, *_CUSTOM)


def custom_domain(name: str) -> CustomDomain | None:
    """The domain that [`scorer`] has added under this name; `None` if there is none."""
    return _CUSTOM.get(name)


def domain_remedy() -> str:
    """What to do about a domain that nothing scores, for messages."""
    return (
        f"Use one of {', '.join(known_domains())}, or define the domain with @scorer in a module that scorer_modules "
        "(--scorer-module) names."
    )


def scorer(*, domain: str, description: str = "") -> Callable[[ScorerFunction], ScorerFunction]:
    """
    Decorator that adds a domain, whose answers the function scores.

    Args:
        domain (`str`):
            Name of the domain, as in the `domain` of a row.
        description (`str`, *optional*, defaults to `""`):
            What its problems are, for prompts that improve a workflow, such as `"letters to customers"`.

    Raises:
        [`RecipeError`]: The domain ships with the package, or another module has defined it.

    Example:

    ```python
    @scorer(domain="estimation")
    def within_ten_percent(answer, golds, question):
        return abs(float(answer) - float(golds[0])) <= 0.1 * abs(float(golds[0]))
    ```
    """
    if domain in BUILTIN_DOMAINS or not domain.isidentifier():
        reason = "ships with the package" if domain in BUILTIN_DOMAINS else "is no identifier"
        raise RecipeError(f"the domain {domain!r} {reason}; choose another name.")

    def register(function: ScorerFunction) -> ScorerFunction:
        existing = _CUSTOM.get(domain)
        # A function of the same module replaces the existing one: that is a reload, in a notebook for example.
        if existing is not None and existing.function.__module__ != function.__module__:
            raise RecipeError(
                f"the domain {domain!r} is already defined in {existing.function.__module__}; choose another name."
            )
        _CUSTOM[domain] = CustomDomain(domain, description or f"problems of the domain {domain}", function)
        return function

    return register


def load_scorers(modules: Sequence[str]) -> None:
    """
    Import modules that define scorers with [`scorer`].

    Args:
        modules (`Sequence[str]`):
            Importable module names, also of the working folder, or paths of files.

    Raises:
        [`RecipeError`]: A module cannot be imported.
    """
    import_user_modules(modules, "scorer")
