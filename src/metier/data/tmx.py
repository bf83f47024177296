"""TMX, translation memories: a stream of units, each with a segment in every language.

The document is XML from strangers: entities are refused, nothing outside the file is read.
"""

from collections.abc import Iterator

from lxml import etree

from metier.data.archives import File
from metier.data.tables import LeftOut, Row
from metier.errors import DataError

_LANGUAGE = ("{http://www.w3.org/XML/1998/namespace}lang", "lang")
_SHOWN = ("hi",)
"""Inline elements whose content is text; that of the others (bpt, ept, it, ph, sub, ut) is the codes of a format."""


def read_tmx(file: File, languages: tuple[int | str, int | str]) -> Iterator[Row]:
    """Yield the segments of two languages.

    Args:
        file: the translation memory.
        languages: of the two columns; ``"en"`` is also ``"en-GB"``, where there is no ``"en"``. A number is the place
            of the segment in its unit, from 1.

    Raises:
        DataError: when the file is not XML or not TMX, or declares entities.
    """
    try:
        events = etree.iterparse(
            str(file.path), events=("start", "end"), resolve_entities=False, load_dtd=False, no_network=True
        )
        started = False
        for event, element in events:
            if not started:
                started = True
                _check(file, element)
            if event == "end" and element.tag == "tu":
                yield element.sourceline or 0, _segments(element, languages)
                element.clear()
                while element.getprevious() is not None:
                    del element.getparent()[0]
    except etree.XMLSyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise DataError(f"{file.name}{line}", f"is not XML ({error.msg})", "Write the file again") from error


def _check(file: File, root: etree._Element) -> None:
    declared = root.getroottree().docinfo.internalDTD
    if declared is not None and any(True for _ in declared.iterentities()):
        raise DataError(file.name, "declares entities, which may unpack without end", "Remove them from its DOCTYPE")
    if root.tag != "tmx":
        raise DataError(file.name, f"begins with <{root.tag}> and not with <tmx>", "Name a TMX file, or set format")


def _segments(unit: etree._Element, languages: tuple[int | str, int | str]) -> list[str] | LeftOut:
    found = [(_language(variant), variant.find("seg")) for variant in unit.iterfind("tuv")]
    chosen = [_of(language, found) for language in languages]
    if any(segment is None for segment in chosen):
        return LeftOut("language missing")
    return [_text(segment) for segment in chosen if segment is not None]


def _language(variant: etree._Element) -> str:
    return next((variant.get(name, "") for name in _LANGUAGE if variant.get(name)), "").lower()


def _of(language: int | str, found: list[tuple[str, etree._Element | None]]) -> etree._Element | None:
    if isinstance(language, int):
        return found[language - 1][1] if language <= len(found) else None
    wanted = language.lower()
    exact = [segment for name, segment in found if name == wanted]
    near = [segment for name, segment in found if name.replace("_", "-").partition("-")[0] == wanted]
    return next(iter(exact or near), None)


def _text(segment: etree._Element) -> str:
    parts = [segment.text or ""]
    for child in segment:
        if child.tag in _SHOWN:
            parts.append(_text(child))
        parts.append(child.tail or "")
    return "".join(parts)
