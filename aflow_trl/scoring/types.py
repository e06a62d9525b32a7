"""Data types of scoring."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """What a scorer says of one answer."""

    value: float
    """Credit in [0, 1]; 1 is right."""
    method: str
    """How the verdict was reached, such as `"exact"`, `"symbolic"`, `"f1"`, `"tests"`."""
    extracted: str
    """The answer that was compared."""
    label: str = ""
    """
    `"no_answer"` if there was nothing to compare, `"wrong_type"` if it was not the kind of answer that was asked for,
    `"weak_verdict"` if the tests could be forged; else empty.
    """
    partial: float = 0.0
    """Share of the way to a right answer (tests passed, token F1) where the scorer knows one, else `value`."""


NO_ANSWER = "no_answer"
WRONG_TYPE = "wrong_type"
WEAK_VERDICT = "weak_verdict"
LEVELS = (0.0, 0.2, 0.4, 0.7, 1.0)
"""The five levels a score can be quantised to."""


def quantize(score: Score) -> float:
    """
    One of five levels.

    1.0 right; 0.7 nearly (80 % of the tests, F1 of 0.8); 0.4 partly (50 %, F1 of 0.5); 0.2 an answer of the right type
    (a number where one is asked for, code that compiles); 0 nothing.

    Args:
        score ([`Score`]):
            Score to quantise.

    Returns:
        `float`: One of [`LEVELS`].
    """
    if score.value >= 1.0:
        return LEVELS[4]
    if score.label in (NO_ANSWER, WRONG_TYPE):
        return LEVELS[0]
    if score.partial >= 0.8:
        return LEVELS[3]
    return LEVELS[2] if score.partial >= 0.5 else LEVELS[1]
