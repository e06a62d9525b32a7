"""The one reader of answers: what a text states as its answer, for scorers, votes and ensembles."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator

from ..text import model_text
from .text import latex_symbols, plain_characters, unwrap, without_commands

READ_DOMAINS = ("math", "qa")
"""Domains whose answers are told from prose; in those of the user only marked ones are."""
MAX_BARE_WORDS = 6
"""Maximum number of words of a last line that counts as an answer without saying so."""
MIN_PROSE_WORDS = 5
"""Number of words from which a line before it counts as prose, and not as another candidate."""
MIN_SENTENCE_WORDS = 3
"""The same for a line that ends as a sentence does."""

_STATED = re.compile(
    r"\b(?:answers?|final result)[*_'\"]{0,4}(?: (?:to|for|of) [^\n.:]{1,80}?)?\s{0,2}"
    r"(?:\b(?:is|are|will be|would be|should be|must be|equals)\b|:|=)[:*_ \t]{0,6}",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"^[#*_ \t]{0,8}(?:the )?(?:final |correct )?(?:answer|result)[*_: \t]{0,8}$", re.IGNORECASE | re.MULTILINE
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s?\{")
_DENIED_BEFORE = re.compile(
    r"\b(?:not|never|cannot|wrong|incorrect|doubt|unlikely|whether|if|isn't|don't|doesn't|can't|nobody|hardly)\b[^.!?\n]{0,60}$",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    r"^[^.!?\n]{0,80}?(?:\b(?:is|was|are|be|seems|looks|being)\s+(?:clearly |obviously |certainly |definitely )?"
    r"(?:wrong|incorrect|false|mistaken|not (?:the )?(?:right|correct|answer|true))|\b(?:wrong|incorrect)\b)"
    r"|^\s{0,3}\?",
    re.IGNORECASE,
)
_CORRECTION = re.compile(
    r"\b(?:no|wait|actually|rather|instead|sorry|correction|corrected|oops|hold on)\b", re.IGNORECASE
)
_SIDE_CLAUSE = re.compile(
    r"[,;]? (?:as (?:required|desired|claimed|needed|expected|requested)|which|since|because|so that)\b.*$"
    r"|, (?:as|who|whose|so|thus|hence|therefore|meaning|i\.e\.)\b.*$",
    re.DOTALL | re.IGNORECASE,
)
_MATH_SEGMENT = re.compile(
    r"\$\$(?:[^$\\]|\\.){1,400}\$\$|(?<!\\)\$(?:[^$\n\\]|\\.){1,400}\$|\\\(.{1,400}?\\\)|\\\[.{1,400}?\\\]", re.DOTALL
)
_CONCLUDES = re.compile(r"(?:\b(?:is|are|equals?|be|gives?|get|obtain|have|yields?)|[=:])\s{0,3}$", re.IGNORECASE)
_ABBREVIATIONS = frozenset(
    "dr mr mrs ms prof st mt ft sr jr rev gen col capt lt sgt gov sen rep hon messrs no nos vs inc ltd co corp "
    "bros jan feb mar apr jun jul aug sep sept oct nov dec ave blvd rd dept est approx fig vol etc e.g i.e a.m "
    "p.m".split()
)
_SENTENCE_STARTS = frozenset(
    "i it the this that these those he she we they you in so thus therefore hence however because as and but "
    "since there note a an is was for if when while at on by from to with let here now his her its our my".split()
)


def extract_answer(text: str, domain: str) -> str:
    """
    The bare answer that a text states.

    For code it is the last fenced block, else the whole text. Otherwise the last statement counts: of `\\boxed{…}`,
    `<answer>…</answer>` and `#### …`, or else of "the answer is …" and of a heading such as "Final answer"; or else a
    formula that ends the last sentence, or a bare last line after prose; or else the whole text. A number that merely
    occurs in prose is not an answer, and neither is one that the text itself calls wrong. Several boxes in a row are a
    list.

    Args:
        text (`str`):
            Output of an operator.
        domain (`str`):
            `math`, `code`, `qa`, or one of the user's, in which only a marked answer is told from the text.

    Returns:
        `str`: The answer, without Markdown, quotes and math delimiters around it; empty if there is none.
    """
    if domain == "code":
        return code_block(text)
    text = model_text(text).strip()
    marked = _last_marked(text)
    if marked is not None:
        return bare_answer(marked, domain)
    if domain not in READ_DOMAINS:
        return text
    stated = _last_stated(text, domain)
    if stated is not None:
        return bare_answer(stated, domain)
    return bare_answer(_concluded(text, domain) or text, domain)


@functools.lru_cache(maxsize=4_096)
def gold_answer(text: str, domain: str) -> str:
    """The bare answer in a gold, which may be a whole solution that ends with `#### …` or a box."""
    text = model_text(text).strip()
    marked = _last_marked(text)
    return bare_answer(text if marked is None else marked, domain)


def bare_answer(text: str, domain: str) -> str:
    """An answer without what surrounds it; in `math` also without LaTeX that changes its looks only."""
    text = plain_characters(text)
    text = unwrap(text)
    return unwrap(without_commands(latex_symbols(text))) if domain == "math" else text


def last_boxed(text: str) -> str | None:
    """Content of the last `\\boxed{…}` with balanced braces; `None` if there is none."""
    boxes = list(_boxes(text))
    return boxes[-1][2] if boxes else None


def code_block(text: str) -> str:
    """Content of the last fenced block, else the text itself."""
    parts = text.lstrip("\ufeff").split("```")
    # Fences come in pairs; one that is left open belongs to no block.
    if len(parts) < 3:
        return text.lstrip("\ufeff").strip("\n")
    block = parts[-2] if len(parts) % 2 else parts[-3]
    language, newline, code = block.partition("\n")
    return (code if newline else language).strip("\n")


def with_prompt_imports(code: str, question: str) -> str:
    """
    Code after the imports of the prompt that it completes, as in HumanEval: an answer may rely on them.

    Args:
        code (`str`):
            The answer.
        question (`str`):
            Text of the problem, whose last fenced block may be a prompt to complete.
    """
    if "```" not in question or "import" not in question or "from __future__" in code:
        return code
    lines = code_block(question).splitlines()
    imports = [line for line in lines if line.startswith(("import ", "from ")) and line not in code]
    try:
        ast.parse("\n".join(imports))
    except SyntaxError:  # prose, or an import over several lines
        return code
    return "\n".join([*imports, code])


def _boxes(text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and content of every outermost box, in order."""
    position = 0
    while match := _BOX.search(text, position):
        depth = 1
        # Counted by hand: LaTeX nests braces (`\boxed{\frac{1}{2}}`), which a regular expression cannot match.
        for index in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[index], 0)
            if depth == 0:
                yield match.start(), index + 1, text[match.end() : index]
                position = index + 1
                break
        else:
            return


def _tags(text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and content of every `<answer>…</answer>`, in order."""
    lowered = text.lower()
    position = 0
    while (end := lowered.find("</answer>", position)) >= 0:
        start = lowered.rfind("<answer>", position, end)
        if start >= 0:
            yield start, end + len("</answer>"), text[start + len("<answer>") : end]
        position = end + len("</answer>")


def _last_marked(text: str) -> str | None:
    """The last statement by a marker, `None` without one; empty if the text takes it back."""
    statements = sorted([*_boxes(text), *_tags(text)])
    if not statements or "####" in text[statements[-1][1] :]:
        if "####" not in text:
            return None
        rest = text.rsplit("####", 1)[1].strip()
        return rest.split("\n")[0].strip()
    start, end, content = statements[-1]
    if _DENIED_AFTER.match(text[end : end + 120]):
        return ""
    contents = [content]
    for earlier_start, earlier_end, earlier in reversed(statements[:-1]):
        between = text[earlier_end:start]
        is_same_line = "\n" not in between and not re.search(r"[.!?]\s", between)
        if (between.strip(" \n,;$*") and not is_same_line) or _CORRECTION.search(between):
            break
        if _nested(earlier) != _nested(content):
            contents.insert(0, earlier)
        start = earlier_start
    return " or ".join(map(_nested, contents)) if len(contents) > 1 else _nested(content)


def _nested(content: str) -> str:
    """Content of a box or tag that holds another one."""
    inner = last_boxed(content)
    return content.strip() if inner is None else _nested(inner)


def _last_stated(text: str, domain: str) -> str | None:
    """The last statement in words, `None` without one; empty if the text takes it back."""
    matches = sorted([*_STATED.finditer(text), *_HEADING.finditer(text)], key=lambda match: match.end())
    for match in reversed(matches):
        rest = text[match.end() :]
        if not rest.strip():
            continue
        if _DENIED_BEFORE.search(text[max(0, match.start() - 80) : match.start()]):
            continue
        value = _first_statement(rest, domain)
        after = rest[rest.find(value) + len(value) :] if value else rest
        is_question = value.endswith("?") and re.match(r"\s*(?:no|wrong|not|never)\b", after, re.IGNORECASE)
        return "" if is_question or _DENIED_AFTER.match(after[:120]) else value
    return None


def _first_statement(text: str, domain: str) -> str:
    """The statement at the start of a text: a formula in its delimiters, or else the first sentence."""
    text = text.lstrip(" \t\n:*_")
    if (segment := _MATH_SEGMENT.match(text)) and not _continues(text[segment.end() :]):
        return segment[0]
    line = text.split("\n")[0]
    sentence = first_sentence(line, domain)
    if domain != "math" and not re.search(r",\s(?:as|which|since|because|so|who|whose)\b", sentence):
        return sentence.strip("*_ \t")  # "because …" may be the answer to a question
    return _SIDE_CLAUSE.sub("", sentence).strip("*_ \t")


def _continues(rest: str) -> bool:
    """Whether a formula is only the beginning of an answer: a unit or another formula follows."""
    rest = rest.split("\n")[0]
    return bool(re.match(r"\s{0,2}(?:[A-Za-z%°/]|(?:or|and|,)\s{0,2}\$)", rest)) and not _SIDE_CLAUSE.match(rest)


def first_sentence(text: str, domain: str) -> str:
    """The first sentence, without its full stop; abbreviations and initials do not end one."""
    for match in re.finditer(r"[.!?](?=\s|$|\*|\")", text):
        before = text[: match.start()]
        word = re.split(r"[\s(\"']", before)[-1]
        following = re.match(r"[\s*\"']*([A-Za-z']+)?", text[match.end() :])
        starts = following is not None and following[1] is not None and following[1].lower() in _SENTENCE_STARTS
        is_last = not text[match.end() :].strip()
        if match[0] == "." and not is_last and not starts:
            if word.lower() in _ABBREVIATIONS:
                continue
            # `J. K. Rowling`, `U.S. Army`; a single letter is an option in math.
            if domain != "math" and re.fullmatch(r"(?:[A-Z]\.)*[A-Z]", word):
                continue
        return before if match[0] == "." else text[: match.end()]
    return text


def _concluded(text: str, domain: str) -> str | None:
    """An answer that is not announced: the formula that ends the last sentence, or a bare last line after prose."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    if len(lines) > 1 and _is_bare(lines[-1], domain) and _is_prose(lines[-2]):
        return lines[-1]
    # Display math on lines of its own: `\[`, `7`, `\]`.
    segments = list(_MATH_SEGMENT.finditer(text))
    if domain == "math" and segments:
        last = segments[-1]
        sentence = re.split(r"[.!?]\s|\n\n", text[: last.start()])[-1]
        rest = text[last.end() :].strip()
        is_end = not re.sub(r"[.,;:!*_\s]", "", rest) or _SIDE_CLAUSE.fullmatch(rest.rstrip(".")) is not None
        is_only = not _MATH_SEGMENT.search(sentence) or _CONCLUDES.search(sentence)
        if is_end and is_only and (_CONCLUDES.search(sentence) or (len(segments) == 1 and not sentence.strip())):
            denied = _DENIED_BEFORE.search(sentence)
            return None if denied else last[0]
    return None


def _is_bare(line: str, domain: str) -> bool:
    """Whether a line is an answer rather than a sentence."""
    bare = bare_answer(line, domain)
    words = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", bare) if domain == "math" else bare.split()
    if not bare or line.endswith((":", "?")) or len(words) > MAX_BARE_WORDS:
        return False
    if domain == "math":
        return bool(re.search(r"\d|\\[a-z]|^[A-Z]$|^\([A-Z]\)$|[a-z]\s?[=+-]", bare))
    return not line.endswith(".") or len(bare.split()) <= 3


def _is_prose(line: str) -> bool:
    words = len(re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", line))
    return words >= MIN_PROSE_WORDS or (words >= MIN_SENTENCE_WORDS and line.endswith((".", "!", ":")))
