"""Clean-up of text that a model wrote: Unicode, Markdown, LaTeX, quotes."""

from __future__ import annotations

import re
import string
import unicodedata

_CHARACTERS = str.maketrans(
    dict.fromkeys("‘’‚‛′`´", "'")
    | dict.fromkeys("“”„‟″«»", '"')
    | dict.fromkeys("‐‑‒–—―−﹣－", "-")
    | dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u3000", " ")
)
_SYMBOLS = {
    **{"½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}"},
    **{"⅕": r"\frac{1}{5}", "⅙": r"\frac{1}{6}", "⅛": r"\frac{1}{8}", "⅜": r"\frac{3}{8}", "⅝": r"\frac{5}{8}"},
    **{"∞": r"\infty ", "π": r"\pi ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "×": r"\times ", "·": r"\cdot "},
    **{"⋅": r"\cdot ", "÷": "/", "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset "},
    **{"⁄": "/", "θ": r"\theta ", "ℝ": r"\mathbb{R}"},
    **dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹", (f"^{{{digit}}}" for digit in string.digits), strict=True)),
}
_SYMBOL = re.compile("|".join(map(re.escape, _SYMBOLS)))
_ROOT = re.compile(r"√\s?(?:\(([^()]{1,80})\)|\{([^{}]{1,80})\}|(\d{1,40}|[a-z]))")
_WRAPPERS = [
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    (r"\\(", r"\\)"),
    (r"\\[", r"\\]"),
    ("**", "**"),
    ("__", "__"),
    ("*", "*"),
    ("_", "_"),
    ("`", "`"),
    ('"', '"'),
    ("'", "'"),
]
_TEXT_COMMAND = re.compile(
    r"\\(?:text|mathrm|textbf|mathbf|textit|mbox|textrm|textsf|operatorname)\s?\{([^{}]{0,400})\}"
)
_FILLERS = re.compile(r"\\(?:displaystyle|left(?![a-z])|right(?![a-z])|quad|qquad|[,;: ])|(?<=\w)~(?=\w)")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
# ASCII only, as in the SQuAD evaluation script, so that scores are comparable.
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_INITIALS = re.compile(r"\b([A-Za-z])\.\s?(?=[A-Za-z]\.)")


def plain_characters(text: str) -> str:
    """The text with plain quotes, dashes and spaces in the place of typographic ones."""
    return text.translate(_CHARACTERS)


def latex_symbols(text: str) -> str:
    """The text with LaTeX commands in the place of mathematical characters: `½`, `√2`, `∞`, `x²`, `x**2`."""
    text = _ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2] or match[3]}}}", text)
    text = _SYMBOL.sub(lambda match: _SYMBOLS[match[0]], text)
    return re.sub(r"(?<=[\w)}])\*\*(?=[\w({-])", "^", text)


def unwrap(text: str) -> str:
    """
    A bare answer without what surrounds it: spaces, math delimiters, Markdown, quotes, a final full stop.

    `$5` stays, because it is an amount of money.
    """
    while True:
        before = text
        text = text.strip()
        if text[:1].isalnum() and text[-1:].isalnum():
            return text  # the usual case: nothing surrounds it
        if not text.endswith("..."):
            text = text.rstrip(".;,:").rstrip()
        for opening, closing in _WRAPPERS:
            inner = text[len(opening) : -len(closing)]
            if (
                text.startswith(opening)
                and text.endswith(closing)
                and inner.strip()
                and opening not in inner.replace(r"\$", "")
            ):
                text = inner
                break
        text = re.sub(r"^#{1,6}\s+", "", text)
        if text == before:
            return text


def without_commands(text: str) -> str:
    """LaTeX without the commands that change its looks only: `\\text{…}`, `\\left`, spacing."""
    while (shorter := _TEXT_COMMAND.sub(r"\1", text)) != text:
        text = shorter
    return re.sub(r"\s+", " ", _FILLERS.sub(" ", text.replace(r"\!", ""))).strip()


def normalize_text(text: str) -> str:
    """SQuAD normalisation: lower case, no punctuation, no articles, single spaces; plain quotes and dashes first."""
    text = plain_characters(unicodedata.normalize("NFC", text))
    # `J. K. Rowling` is `J.K. Rowling`.
    bare = _INITIALS.sub(r"\1.", text).casefold().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())
