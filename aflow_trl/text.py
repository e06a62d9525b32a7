"""
The one door for text of a model (replies, program output): what lies behind it is bounded and harmless to print.

A model can write anything: megabytes of one character, control sequences of a terminal, characters that reverse the
direction of a line, halves of a surrogate pair that no file can hold.
"""

from __future__ import annotations

import re
import unicodedata

MAX_TEXT_CHARS = 20_000
"""Characters of a text that are kept, from its end: conclusions stand there."""
HIDDEN_CHARACTERS = r"\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
"""Control characters, invisible and bidirectional marks, as the inside of a character class."""
_HIDDEN_PATTERN = re.compile(rf"[{HIDDEN_CHARACTERS}\ud800-\udfff]")
_HARMLESS = frozenset("\n\t")
_HIDDEN = ("Cc", "Cf", "Cs")
"""Unicode categories: control characters, invisible and bidirectional marks, surrogates."""


def model_text(text: str, *, max_chars: int = MAX_TEXT_CHARS) -> str:
    """
    Text of a model that may be parsed, shown, stored and put into a prompt.

    Args:
        text (`str`):
            Text as it came.
        max_chars (`int`, *optional*, defaults to `20_000`):
            Characters to keep, from the end.

    Returns:
        `str`: In Unicode's composed form, without control characters (but line breaks and tabs), invisible and
            bidirectional marks and surrogates.
    """
    text = text[-max_chars:].replace("\r\n", "\n").replace("\r", "\n")
    if text.isascii() and text.isprintable():
        return text
    text = unicodedata.normalize("NFC", text)
    return "".join(char for char in text if char in _HARMLESS or unicodedata.category(char) not in _HIDDEN)


def hidden_character(text: str) -> str | None:
    """The first of [`HIDDEN_CHARACTERS`] in a text, but for line breaks and tabs; `None` if there is none."""
    return next((char for char in _HIDDEN_PATTERN.findall(text) if char not in _HARMLESS), None)
