"""Message catalogues of programs, gettext's .po and .mo: translations, cleaned of what only a program needs."""

import re
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from babel.messages.catalog import Catalog
from babel.messages.mofile import read_mo
from babel.messages.pofile import PoFileError, read_po

from metier.data.archives import File
from metier.data.tables import LeftOut, Row
from metier.errors import DataError

_PLACEHOLDER = re.compile(
    r"%(?:\([^)]*\)|\d+\$)?[-+#0 ]*(?:\*|\d+)?(?:\.\d+)?(?:hh|ll|[hlqjztL])?[diouxXeEfFgGcrsaApn@]"  # printf
    r"|%\d|\{[^{}]*\}|\$\{?\w+|@\w+@|\[\[|\]\]"  # Qt, format(), shell, templates
)
_PAIRED = re.compile(r"<(?P<tag>[A-Za-z][\w.-]*)(?:[ =][^<>]*)?>(?P<inner>[^<>]*)</(?P=tag)>")
_MARKUP = re.compile(r"</?[A-Za-z_][^<>]*>|&(?:#\d+|#x[0-9A-Fa-f]+|[A-Za-z]+);|\\[ntr]")
_BRACKETED_KEY = re.compile(r"\s*\([_&][A-Za-z0-9]\)")
_KEY_AT_WORD = re.compile(r"(?<![\w&])[_&](?=[^\W_])")
_KEY_IN_WORD = re.compile(r"(?<=[^\W_])[_&](?=[^\W_])")
_CONTEXT = re.compile(r"[|^]")


class _Message(NamedTuple):
    """A message in one catalogue: its forms for one and for more, alike where the language has one form."""

    key: tuple[str | None, str]
    original: tuple[str, str]
    translated: tuple[str, str]
    left_out: str = ""
    plural: bool = False


def read_catalogues(sides: Sequence[Sequence[File]], layout: str) -> Iterator[Row]:
    """Yield messages and translations: columns ``msgid`` and ``msgstr``, or the same message in two languages.

    Args:
        sides: the catalogues of one side, whose originals are the other one; or of two sides, both translated from the
            same originals, which are paired by context and original.
        layout: "po" or "mo".

    Raises:
        DataError: when a file is damaged.
    """
    number = 0
    if len(sides) == 1:
        for file in sides[0]:
            for message in _messages(file, layout):
                for original, translated in _forms(message, message.original, message.translated):
                    number += 1
                    yield number, _row(message.left_out, original, translated)
        return
    others = {message.key: message for file in sides[1] for message in _messages(file, layout)}
    for file in sides[0]:
        for message in _messages(file, layout):
            number += 1
            if other := others.get(message.key):
                left_out = message.left_out or other.left_out
                for one, two in _forms(message, message.translated, other.translated):
                    yield number, _row(left_out, one, two)
            else:
                yield number, LeftOut(message.left_out or "no counterpart")


def clean_message(one: str, two: str) -> list[str] | LeftOut:
    """Return a pair of interface texts without what only the program needs, or why it is left out.

    Accelerator keys (``_File``, ``E&xit``, ``(_F)``) and tags that enclose text are removed; a pair with a placeholder
    (``%s``, ``{name}``), other markup, or a remark for translators in front of ``|`` or ``^`` is left out.
    """
    one, two = _without_tags(one), _without_tags(two)
    if _PLACEHOLDER.search(one) or _PLACEHOLDER.search(two):
        return LeftOut("placeholder")
    if _MARKUP.search(one) or _MARKUP.search(two):
        return LeftOut("markup")
    if bool(_CONTEXT.search(one)) != bool(_CONTEXT.search(two)):
        return LeftOut("remark for translators")
    shown = [_BRACKETED_KEY.sub("", text) for text in (one, two)]
    shown = [_KEY_AT_WORD.sub("", text, count=1) for text in shown]
    if shown[0] != one or shown[1] != two:
        shown = [
            _KEY_IN_WORD.sub("", new, count=1) if new == old else new
            for new, old in zip(shown, (one, two), strict=True)
        ]
    if shown[0].strip() == shown[1].strip():
        return LeftOut("untranslated")
    return shown


def _row(left_out: str, one: str, two: str) -> list[str] | LeftOut:
    return LeftOut(left_out) if left_out else clean_message(one, two)


def _forms(message: _Message, one: tuple[str, str], two: tuple[str, str]) -> list[tuple[str, str]]:
    """Return the pairs in a message: of the plural, and of the singular where both sides have a form of its own."""
    pairs = [(one[1], two[1])]
    if message.plural and one[0] != one[1] and two[0] != two[1]:
        pairs.insert(0, (one[0], two[0]))
    return pairs


def _messages(file: File, layout: str) -> Iterator[_Message]:
    for message in _catalogue(file, layout):
        if not message.id:
            continue  # the header
        ids = message.id if isinstance(message.id, tuple | list) else (message.id,)
        strings = message.string if isinstance(message.string, tuple | list) else (message.string,)
        left_out = "fuzzy" if message.fuzzy else "" if all(strings) else "untranslated"
        yield _Message(
            (message.context, ids[0]),
            (ids[0], ids[-1]),
            (strings[0] or "", strings[-1] or ""),
            left_out,
            len(ids) > 1,
        )


def _catalogue(file: File, layout: str) -> Catalog:
    try:
        with file.path.open("rb") as stream:
            return read_po(stream, abort_invalid=True) if layout == "po" else read_mo(stream)
    except PoFileError as error:
        raise DataError(
            f"{file.name}, line {error.lineno + 1}", f"is not a catalogue ({error})", "Write the file again"
        ) from error
    except (struct.error, UnicodeDecodeError, ValueError, IndexError, KeyError, LookupError) as error:
        raise _damaged(file, str(error)) from error
    except OSError as error:
        if error.errno:
            raise
        raise _damaged(file, str(error.strerror)) from error


def _damaged(file: File, found: str) -> DataError:
    return DataError(file.name, f"is damaged or no catalogue ({found})", "Fetch it again, or set format")


def _without_tags(text: str) -> str:
    while (shorter := _PAIRED.sub(r"\g<inner>", text)) != text:
        text = shorter
    return text
