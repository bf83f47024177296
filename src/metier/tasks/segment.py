"""Cut text into the pieces a model answers and the layout between them, losing nothing."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import sentencex

MAX_CHARS = 400
"""Longest piece; anything longer is cut, so that no input can exceed a model's context."""

_WINDOW_CHARS = 1000
# sentencex takes time quadratic in the number of sentences of one call: short windows keep long lines linear.

_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_BULLETS = r"(?:(?:[-*+>#–—]{1,6}|[0-9]{1,3}[.)])\s+|[•・●○■□◆◇▪‣※]\s*){0,4}"
_LINE = re.compile(rf"(?P<layout>\s*{_BULLETS})(?P<body>[^{_BREAKS}]*)")
_CLAUSE_END = re.compile(r"[,;:.!?、，；：。．！？)）」』】]+\s*")
_SPACE = re.compile(r"\s+")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Piece(NamedTuple):
    """A stretch of a text: either for the model, or layout that stays as it is."""

    text: str
    translate: bool


def split_sentences(text: str, language: str) -> list[Piece]:
    """Cut text into sentences and layout; the pieces' texts joined are the text.

    Line breaks, indentation, bullets, spaces between sentences and stretches without a letter or digit are
    layout. Takes time linear in the length of the text.

    Args:
        text: any text, lone surrogates and NUL bytes included.
        language: code of the text's language, such as ``ja`` or ``pt-BR``.
    """
    code = re.split("[-_]", language)[0].lower()
    pieces: list[Piece] = []
    for line in _LINE.finditer(text):
        pieces.append(Piece(line["layout"], False))
        for sentence in _sentences(line["body"], code):
            pieces.extend(_within_layout(sentence))
    return [piece for piece in pieces if piece.text]


def split_whole(text: str) -> list[Piece]:
    """Return the text as one piece, the white space around it as layout."""
    body = text.strip()
    start = text.find(body)
    parts = (
        Piece(text[:start], False),
        Piece(body, bool(body)),
        Piece(text[start + len(body) :], False),
    )
    return [piece for piece in parts if piece.text]


def fill(pieces: Sequence[Piece], answers: Iterable[str]) -> Iterator[str]:
    """Yield the text of each piece, a stripped answer in place of each that was to be translated.

    Raises:
        ValueError: when there are not as many answers as pieces to translate.
    """
    remaining = iter(answers)
    for piece in pieces:
        if not piece.translate:
            yield piece.text
            continue
        answer = next(remaining, None)
        if answer is None:
            raise ValueError("fewer answers than pieces to translate")
        yield answer.strip()
    if next(remaining, None) is not None:
        raise ValueError("more answers than pieces to translate")


def _within_layout(sentence: str) -> Iterator[Piece]:
    for piece in split_whole(sentence):
        yield Piece(piece.text, any(map(str.isalnum, piece.text)))


def _sentences(line: str, code: str) -> Iterator[str]:
    start = 0
    while start < len(line):
        window = line[start : start + _WINDOW_CHARS]
        found = _segment(window, code)
        if start + len(window) < len(line):
            # The last sentence may go on behind the window: it is met again at the start of the next one.
            found = found[:-1] or [window[: _cut(window)]]
        for sentence in found:
            start += len(sentence)
            while len(sentence) > MAX_CHARS:
                end = _cut(sentence)
                yield sentence[:end]
                sentence = sentence[end:]
            yield sentence


def _segment(text: str, code: str) -> list[str]:
    # Cut by lengths, not by sentencex's own strings: it cannot take surrogates, and nothing may get lost.
    lengths = map(len, sentencex.segment(code, _SURROGATE.sub("\ufffd", text)))
    ends = [0, *accumulate(lengths)]
    ends[-1] = len(text)
    return [text[start:end] for start, end in pairwise(ends)]


def _cut(text: str) -> int:
    """Return where to cut text above MAX_CHARS: after a clause, else after a space, else hard."""
    for pattern in (_CLAUSE_END, _SPACE):
        ends = [match.end() for match in pattern.finditer(text, MAX_CHARS // 2, MAX_CHARS)]
        if ends:
            return ends[-1]
    return MAX_CHARS
