"""Parsers of the reply formats that prompts ask for."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..errors import AflowError


class ReplyError(AflowError):
    """A reply is not in the required format. Raised by parsers; [`OperatorCall.ask_for`] retries once."""


def tagged(*names: str) -> Callable[[str], dict[str, str]]:
    """
    Build a parser for replies of the form `<name>…</name>`, one element for each of `names`.

    Returns:
        `Callable[[str], dict[str, str]]`: The parser; it maps a reply to the stripped contents by name and raises
        [`ReplyError`] if an element is missing.
    """

    def parse(text: str) -> dict[str, str]:
        contents = {}
        for name in names:
            match = re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL | re.IGNORECASE)
            if match is None:
                raise ReplyError(f"the reply has no <{name}> element")
            contents[name] = match.group(1).strip()
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
    blocks = re.findall(r"```[^\n`]*\n(.*?)```", text, re.DOTALL)
    if not blocks or not blocks[-1].strip():
        raise ReplyError("the reply has no fenced block of code")
    return str(blocks[-1]).strip("\n")
