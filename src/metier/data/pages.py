"""HTML pages in two languages: blocks of text, paired by their ids or, without ids, by their order."""

import codecs
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from lxml import etree

from metier.data.archives import File
from metier.data.encodings import decode
from metier.data.tables import LeftOut, Row
from metier.errors import DataError

_SUFFIXES = (".html", ".htm", ".xhtml")
_BLOCKS = frozenset(
    ("p", "h1", "h2", "h3", "h4", "h5", "h6", "li", "dt", "dd", "td", "th", "caption", "figcaption", "summary", "pre")
)
_UNSEEN = frozenset(("script", "style", "template"))

_parser = partial(etree.HTMLParser, no_network=True, remove_comments=True, remove_pis=True)

_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_BODY = re.compile(rb"<body\b", re.IGNORECASE)
# What can be read as ASCII up to here is not in two bytes a character, whatever it states.
_STATED = re.compile(
    rb"""<(?:meta|\?xml)\b[^>]*?\b(?:charset|encoding)\s*=\s*["']?\s*(?!utf-?16|utf-?32|ucs)([\w.:-]+)""", re.IGNORECASE
)


class _Block(NamedTuple):
    """A piece of text that no other block is inside of."""

    id: str | None
    tag: str
    text: str
    hidden: bool


def read_pages(sides: Sequence[Sequence[File]], encoding: str) -> Iterator[Row]:
    """Yield the blocks of text that two folders of pages share, page by page of the same path.

    In a page where blocks have ids, those with the same id belong together. In one without ids all blocks do, in their
    order, if both pages are a row of the same tags.

    Args:
        sides: the pages of the two folders.
        encoding: of the pages that do not state one.

    Raises:
        DataError: when the folders have no page in common, or one that states no encoding is not of the given one.
    """
    if len(sides) != 2:
        where = sides[0][0].name if sides and sides[0] else "html"
        raise DataError(where, "one folder of pages has no translations", "Write 'A,B', two folders")
    pages = [{file.inside: file for file in side if file.name.lower().endswith(_SUFFIXES)} for side in sides]
    common = [path for path in pages[0] if path in pages[1]]
    if not common:
        found = f"have {len(pages[0])} and {len(pages[1])} pages, none of the same path"
        raise DataError("the two folders", found, "Name the folders below which the paths are the same")
    number = 0
    for path in common:
        for row in _aligned(*(_blocks(side[path], encoding) for side in pages)):
            number += 1
            yield number, row


def _aligned(one: list[_Block], two: list[_Block]) -> Iterator[list[str] | LeftOut]:
    if any(block.id for block in one) or any(block.id for block in two):
        known, other = _by_id(one), _by_id(two)
        pairs = [(block, other.get(name)) for name, block in known.items()]
    elif [block.tag for block in one] == [block.tag for block in two]:
        pairs = list(zip(one, two, strict=True))
    else:
        yield from (LeftOut("page of another structure") for _ in one)
        return
    for block, counterpart in pairs:
        if counterpart is None:
            yield LeftOut("no counterpart")
        elif block.hidden or counterpart.hidden:
            yield LeftOut("hidden text")
        elif block.text == counterpart.text:
            yield LeftOut("untranslated")
        else:
            yield [block.text, counterpart.text]


def _by_id(side: list[_Block]) -> dict[str, _Block]:
    """Return the blocks whose id is theirs alone."""
    times = Counter(block.id for block in side)
    return {block.id: block for block in side if block.id and times[block.id] == 1}


def _blocks(file: File, encoding: str) -> list[_Block]:
    content = file.path.read_bytes()
    parser = _parser_of(content)
    if parser is None:
        content, parser = decode(file.name, content, encoding).encode("utf-8", "replace"), _parser(encoding="utf-8")
    try:
        root = etree.fromstring(content, parser) if content.strip() else None
    except etree.ParserError:
        root = None
    if root is None:
        return []
    found = []
    for element in root.iter(*_BLOCKS):
        if any(True for _ in element.iterdescendants(*_BLOCKS)):
            continue
        text = " ".join("".join(_text(element)).split())
        if text:
            found.append(_Block(element.get("id"), str(element.tag), text, _hides(element)))
    return found


def _parser_of(content: bytes) -> etree.HTMLParser | None:
    """Return a parser for the encoding that a page states, by a mark of byte order or in its head; None without one."""
    if content.startswith(_MARKS):
        return _parser()
    for stated in _STATED.finditer(_BODY.split(content, maxsplit=1)[0]):
        with suppress(LookupError):  # a name that the parser does not know is none
            return _parser(encoding=stated[1].decode("ascii"))
    return None


def _text(element: etree._Element) -> Iterator[str]:
    yield element.text or ""
    for child in element:
        if child.tag not in _UNSEEN:
            yield from _text(child)
        if child.tag == "br":
            yield " "
        yield child.tail or ""


def _hides(element: etree._Element) -> bool:
    """Return whether a part is shown on some systems only: the text as a whole is then no sentence."""
    return any("hidden" in part.attrib for part in element.iter(etree.Element))
