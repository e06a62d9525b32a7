"""The forms of replies that prompts ask for, and how a reply is read that keeps to them roughly."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..answers import code_block
from ..errors import AflowError

MAX_OBJECTS = 20
"""Maximum number of braces in a reply from which a JSON object is tried to be read."""
# A backslash that is no escape of JSON, or is one only because LaTeX commands begin with the same letter.
_BARE_BACKSLASH = re.compile(
    r'(?<!\\)((?:\\\\)*)\\(?=[^"\\/bfnrtu]|[bfr][a-zA-Z]|u(?![0-9a-fA-F]{4})'
    r"|(?:t(?:ext|imes|heta|an|au|frac|riangle|o)|n(?:eq|e|abla|u|otin))\b)"
)
_ORNAMENT = " \t.:*_`\"'()[]"


class ReplyError(AflowError):
    """A reply is not in the required format. Raised by parsers; [`OperatorCall.ask_for`] retries once."""


@dataclass(frozen=True)
class ReplyForm:
    """
    A reply of named fields, as `<name>…</name>` in free text or as a JSON object. Built by [`tagged`].

    Called with a reply, it returns the stripped contents of the fields by name, and raises [`ReplyError`] if a field
    is missing. Fields under headings (`**Answer:** 42`) are read too, and a choice that stands alone in the last line.
    """

    names: tuple[str, ...]
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Admissible contents of a field."""
    last_line_counts: bool = False
    """Whether the last line may serve as the last field of a reply in no form at all; see [`guess`]."""

    def __call__(self, text: str) -> dict[str, str]:
        contents = self._elements(text) or self._json(text) or self._headings(text) or self._last_choice(text)
        if contents is None:
            raise ReplyError(f"the reply has no {' and '.join(f'<{name}>' for name in self.names)}")
        for name, choices in self.choices.items():
            contents[name] = _chosen(contents[name], choices)
        return contents

    def guess(self, text: str) -> dict[str, str]:
        """
        Read a complete reply in no form: its last line is the last field, the text before it the first.

        Raises:
            [`ReplyError`]: The form does not admit it, or the reply is empty.
        """
        before, _, last = text.strip().rpartition("\n")
        if not self.last_line_counts or not last.strip():
            raise ReplyError("the reply is in no form")
        return dict.fromkeys(self.names, "") | {self.names[0]: before.strip(), self.names[-1]: last.strip()}

    def schema(self) -> dict[str, Any]:
        """JSON schema of an object of the fields."""
        fields = {
            name: {"type": "string"} | ({"enum": list(self.choices[name])} if name in self.choices else {})
            for name in self.names
        }
        return {"type": "object", "properties": fields, "required": list(self.names), "additionalProperties": False}

    def ask_for_json(self, prompt: str) -> str:
        """The prompt, with a JSON object in place of the elements that it ends with."""
        elements = r"\n".join(rf"<{name}>(.*)</{name}>" for name in self.names)
        match = re.search(rf"Reply in this form:\n{elements}\s*$", prompt)
        if match is None:
            return prompt
        described = json.dumps(dict(zip(self.names, match.groups(), strict=True)), ensure_ascii=False)
        return f"{prompt[: match.start()]}Reply with a JSON object of this form:\n{described}"

    def _elements(self, text: str) -> dict[str, str] | None:
        contents, lowered = {}, text.lower()
        for name in self.names:
            # Searched for from the end, once: a regular expression would try again from every tag.
            end = lowered.rfind(f"</{name}>")
            start = lowered.rfind(f"<{name}>", 0, max(0, end))
            if start < 0 or end < 0:
                return None
            contents[name] = text[start + len(name) + 2 : end].strip()
        return contents

    def _json(self, text: str) -> dict[str, str] | None:
        decoder, found, start = json.JSONDecoder(strict=False), None, text.find("{")
        if start >= 0:
            text, start = _BARE_BACKSLASH.sub(r"\1\\\\", text[start:]), 0
        for _ in range(MAX_OBJECTS):
            if start < 0:
                break
            try:
                content, end = decoder.raw_decode(text, start)
            except (ValueError, RecursionError):
                end = start + 1
            else:
                by_name = {str(name).lower(): value for name, value in content.items()}
                if all(by_name.get(name) is not None for name in self.names):
                    found = {name: _as_text(by_name[name]) for name in self.names}
            start = text.find("{", end)
        return found

    def _headings(self, text: str) -> dict[str, str] | None:
        headings: dict[str, re.Match[str]] = {}
        for match in _heading(self.names).finditer(text):
            name = match["name"].lower()
            # "The answer is 42" states it; "the solution is right" does not.
            if match["mark"] or match["colon"] or (match["is"] and (name == "answer" or name in self.choices)):
                headings[name] = match
        if self.names[-1] not in headings:
            return None
        # In the order of the form; the prose of a first field often comes without a heading.
        positions = [headings[name].start() if name in headings else 0 for name in self.names]
        missing = [name for name in self.names if name not in headings]
        if positions != sorted(positions) or missing not in ([], [self.names[0]]):
            return None
        ends = [*positions[1:], len(text)]
        return {
            name: text[headings[name].end() if name in headings else 0 : end].strip().strip("*_:").strip()
            for name, end in zip(self.names, ends, strict=True)
        }

    def _last_choice(self, text: str) -> dict[str, str] | None:
        name = self.names[-1]
        if name not in self.choices:
            return None
        before, _, last = text.strip().rpartition("\n")
        alternatives = "|".join(map(re.escape, self.choices[name]))
        match = re.search(rf"(?:^|\bis|:|{name})[\s*_`\"'(]*({alternatives})[\s.*_`\"')]*$", last, re.IGNORECASE)
        if match is None:
            return None
        prose = f"{before}\n{last[: match.start()]}".strip()
        return dict.fromkeys(self.names[:-1], prose) | {name: match[1]}


def tagged(
    *names: str, choices: Mapping[str, Sequence[str]] | None = None, last_line_counts: bool = False
) -> ReplyForm:
    """
    Form of replies with one field for each of `names`. The last element of a name counts, as models quote the format,
    or change their mind.

    Args:
        *names (`str`):
            Names of the fields.
        choices (`Mapping[str, Sequence[str]]`, *optional*):
            Admissible contents by field, for fields that have to be one of several words.
        last_line_counts (`bool`, *optional*, defaults to `False`):
            Whether the last line may serve as the last field if the second reply is in no form either.

    Returns:
        [`ReplyForm`]: The form, to be passed to [`OperatorCall.ask_for`].
    """
    return ReplyForm(names, {name: tuple(words) for name, words in (choices or {}).items()}, last_line_counts)


def fenced(text: str) -> str:
    """
    Parse a reply that holds code in a fenced block, or is a program and nothing else.

    Returns:
        `str`: Code of the last block.

    Raises:
        [`ReplyError`]: There is no fenced block, or the last one is empty.
    """
    # The last one, because models tend to quote the faulty code before they write the new one.
    code = code_block(text) if text.count("```") > 1 else ""
    if not code.strip() and "```" not in text and _is_program(text):
        code = text.strip("\n")
    if not code.strip():
        raise ReplyError("the reply has no fenced block of code")
    return code


def _is_program(text: str) -> bool:
    """Whether a text is a program and nothing else: a single word of prose would be valid Python, too."""
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.Import) for statement in statements)


def _chosen(content: str, choices: Sequence[str]) -> str:
    """The choice that a content is; as a whole, because "correct" is part of "incorrect"."""
    bare = content.strip(_ORNAMENT).lower()
    for choice in choices:
        if bare == choice.lower():
            return choice
    raise ReplyError(f"the reply is {content[:40]!r} where one of {', '.join(choices)} is expected")


def _heading(names: Sequence[str]) -> re.Pattern[str]:
    """A line that begins with the name of a field, and what marks it as a heading."""
    marks = r"(?:\#{1,6}|\*\*|__)"
    name = rf"(?P<name>{'|'.join(map(re.escape, names))})"
    return re.compile(
        rf"^[ ]*(?P<mark>{marks}[ ]*)?(?:(?:the|my)[ ])?(?:final[ ])?{name}"
        r"(?P<colon>(?:\*\*|__)?[ ]*:)?(?P<is>[ ]+is\b)?",
        re.IGNORECASE | re.MULTILINE,
    )


def _as_text(value: object) -> str:
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
