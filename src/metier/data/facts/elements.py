"""When the chemical elements were discovered, and by whom, by two sources that often disagree.

The Blue Obelisk repository (``elements.xml``) has an entry in XML an element, the dictionary of dict-elements
(``elements.dict.dz``, compressed) a paragraph in prose, such as "It was discovered by Priestley in 1774."
"""

import gzip
import re
import zlib
from collections.abc import Iterator

from lxml import etree

from metier.data.archives import File
from metier.data.encodings import decode
from metier.data.facts.found import LONGEST_VALUE, Found, Left, Line, Subject, dated
from metier.errors import DataError
from metier.facts.dates import NotADateError, parse
from metier.facts.mentions import mentions

_CML = "{http://www.xml-cml.org/schema}"
_ENTRY = re.compile(r"(?:\A|(?<=\n\n))(?P<name>[a-z]+)\nSymbol: .*?(?=\n\n[a-z]+\nSymbol: |\Z)", re.DOTALL)
_DISCOVERED = re.compile(r"(?<!re)discovered\b", re.IGNORECASE)
_MOST_BYTES = 1 << 24


def read_elements(file: File, encoding: str) -> Iterator[Found | Left]:
    """Yield what either of the two files says.

    Args:
        file: one of the two.
        encoding: of the dictionary's text.

    Raises:
        DataError: when it is neither.
    """
    place = file.inside or file.path.name
    if place.endswith(".dz"):
        yield from _read_dictionary(file, place, encoding)
    else:
        yield from _read_repository(file, place)


def _subject(name: str) -> Subject:
    return Subject((name.capitalize(),), "thing", "chemical element")


def _read_repository(file: File, place: str) -> Iterator[Found | Left]:
    try:
        root = etree.parse(str(file.path), etree.XMLParser(resolve_entities=False, load_dtd=False, no_network=True))
    except etree.XMLSyntaxError as error:
        raise DataError(file.name, f"is not XML ({error.msg})", "Set path to the elements.xml of bodr") from error
    atoms = list(root.iter(f"{_CML}atom"))
    if not atoms:
        raise DataError(file.name, "has no atoms", "Set path to the elements.xml of bodr")
    for atom in atoms:
        said = {str(child.get("dictRef")).removeprefix("bo:"): child for child in atom}
        name, when, whom = (said.get(key) for key in ("name", "discoveryDate", "discoverers"))
        spelt = str(name.get("value")) if name is not None else ""
        people = ", ".join(part.strip() for part in (whom.text or "").split(";")) if whom is not None else ""
        year = (when.text or "").strip() if when is not None else ""
        text = f"{spelt}. Discovered: {year}; discoverers: {people}"
        yield from _discovery(spelt, year, people, Line(f"{place}, line {atom.sourceline}", text))


def _discovery(name: str, year: str, people: str, line: Line) -> Iterator[Found | Left]:
    if not name or not year or year == "0":  # known since ever
        yield Left("no date", line)
        return
    try:
        yield dated(_subject(name), "discovered", parse(year), line)
    except NotADateError as error:
        yield Left(error.reason, line, (_subject(name), ("discovered",)))
    if people and len(people) <= LONGEST_VALUE and "et al" not in people:
        yield Found(_subject(name), "discovered by", people, None, line)


def _read_dictionary(file: File, place: str, encoding: str) -> Iterator[Found | Left]:
    try:
        with gzip.open(file.path) as packed:
            text = decode(file.name, packed.read(_MOST_BYTES), encoding)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(file.name, f"is no compressed dictionary ({error})", "Set path to the .dict.dz file") from error
    for entry in _ENTRY.finditer(text):
        told = " ".join(entry[0].split())
        line = Line(f"{place}, line {text.count(chr(10), 0, entry.start()) + 1}", told)
        sentences = [part for part in re.split(r"(?<=[a-z0-9]\.)\s", told) if _DISCOVERED.search(part)]
        found = [mention for part in sentences for mention in mentions(part)]
        if len(found) == 1:
            yield dated(_subject(entry["name"]), "discovered", found[0].date, line)
        else:
            about = (_subject(entry["name"]), ("discovered",)) if found else None
            yield Left("several dates" if found else "no date", line, about)
