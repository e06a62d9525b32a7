"""Parsers of the reply formats that prompts ask for."""

from __future__ import annotations

from collections.abc import Callable

from ..answers import code_block
from ..errors import AflowError


class ReplyError(AflowError):
    """A reply is not in the required format. Raised by parsers; [`OperatorCall.ask_for`] retries once."""


def tagged(*names: str) -> Callable[[str], dict[str, str]]:
    """
    Build a parser for replies of the form `<name>…</name>`, one element for each of `names`. The last one counts, as
    models quote the format, or change their mind.

    Returns:
        `Callable[[str], dict[str, str]]`: The parser; it maps a reply to the stripped contents by name and raises
        [`ReplyError`] if an element is missing.
    """

    def parse(text: str) -> dict[str, str]:
        contents = {}
        lowered = text.lower()
        for name in names:
            # Searched for from the end, once: a regular expression would try again from every tag.
            end = lowered.rfind(f"</{name}>")
            start = lowered.rfind(f"<{name}>", 0, max(0, end))
            if start < 0 or end < 0:
                raise ReplyError(f"the reply has no <{name}> element")
            contents[name] = text[start + len(name) + 2 : end].strip()
        return contents

    return parse


def fenced(text: str) -> str:
    """
    Parse a reply that holds code in a fenced block.

    Returns:
        `str`: Code of the last block.

    Raises:
        [`ReplyError`]: There is no fenced block, or the last one is empty.
    """
    # The last one, because models tend to quote the faulty code before they write the new one.
    code = code_block(text) if text.count("```") > 1 else ""
    if not code.strip():
        raise ReplyError("the reply has no fenced block of code")
    return code
