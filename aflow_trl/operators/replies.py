"""The forms of reply that prompts ask for, parsed in this one place."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..errors import AflowError


class ReplyError(AflowError):
    """A reply is not of the form asked for."""


def tagged(*names: str) -> Callable[[str], dict[str, str]]:
    """Parser of replies that hold `<name>…</name>` for every one of `names`."""

    def parse(text: str) -> dict[str, str]:
        found = {}
        for name in names:
            match = re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL | re.IGNORECASE)
            if match is None:
                raise ReplyError(f"the reply has no <{name}>")
            found[name] = match.group(1).strip()
        return found

    return parse


def fenced(text: str) -> str:
    """Parser of replies that hold code in a fenced block."""
    match = re.findall(r"```[^\n`]*\n(.*?)```", text, re.DOTALL)
    if not match or not match[-1].strip():
        raise ReplyError("the reply has no fenced block of code")
    return str(match[-1]).strip("\n")
