"""Data types of the scorers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """Result of a scorer for one answer."""

    value: float
    """Credit in [0, 1]; 1 is correct."""
    method: str
    """How the value was determined, such as `"exact"`, `"symbolic"`, `"f1"`, `"tests"`."""
    extracted: str
    """The answer that was compared."""
    label: str = ""
    """
    `"no_answer"` if there was nothing to compare, `"wrong_type"` if the answer is not of the expected kind,
    `"weak_verdict"` if the verdict could have been forged, `"too_complex"` or `"no_verdict"` if the scorer or the
    judge fails for this answer and not for the gold; otherwise empty.
    """
    partial: float = 0.0
    """Partial credit in [0, 1]: share of tests passed or token F1; equal to `value` if the scorer has neither."""


NO_ANSWER = "no_answer"
WRONG_TYPE = "wrong_type"
WEAK_VERDICT = "weak_verdict"
TOO_COMPLEX = "too_complex"
NO_VERDICT = "no_verdict"
LEVELS = (0.0, 0.2, 0.4, 0.7, 1.0)
"""Levels of a quantised score."""
NEARLY_CORRECT = 0.8
"""Minimum partial credit for level 0.7."""
PARTLY_CORRECT = 0.5
"""Minimum partial credit for level 0.4."""


def quantize(score: Score) -> float:
    """
    Quantise a score to five levels.

    1.0 is correct; 0.7 nearly correct (80 % of the tests, F1 of 0.8); 0.4 partly correct (50 % of the tests, F1 of
    0.5); 0.2 wrong but of the expected type (a number for a numeric problem, code that compiles); 0 anything else.

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
    if score.partial >= NEARLY_CORRECT:
        return LEVELS[3]
    return LEVELS[2] if score.partial >= PARTLY_CORRECT else LEVELS[1]
