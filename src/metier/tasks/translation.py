"""Translation between two languages, sentence by sentence."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from metier.errors import SpecError
from metier.tasks.prompt import PromptFormat, Turn, candidates
from metier.tasks.segment import Piece, fill, split_sentences

_UNSPACED = frozenset({"ja", "zh", "yue", "wuu", "lzh"})
"""Languages that write no space between two sentences."""

_NOT_LANGUAGES = frozenset({"mis", "mul", "root", "und", "zxx"})
"""Codes that stand for no, any or an unknown language."""


@dataclass(frozen=True)
class Translation:
    """Translate from one language into another; both are codes such as ``ja`` or ``pt-BR``."""

    source: str
    target: str

    name: ClassVar[str] = "translation"
    primary_metric: ClassVar[str] = "chrf2"
    metrics: ClassVar[tuple[str, ...]] = ("chrf2", "bleu")

    @property
    def output_language(self) -> str:
        """Code of the language of the answers."""
        return self.target

    def prompts(self, turn: Turn | None = None) -> tuple[PromptFormat, ...]:
        """Return the candidate prompt formats.

        Args:
            turn: how the base is chatted with, if it is a model for that.

        Raises:
            SpecError: when a language is unknown.
        """
        source, target = language_name(self.source), language_name(self.target)
        return candidates(
            source,
            target,
            f"Translate from {source} to {target}.",
            turn,
        )

    def split(self, text: str) -> list[Piece]:
        """Cut text into sentences and the layout between them; joined they are the text."""
        return split_sentences(text, self.source)

    def join(self, pieces: Sequence[Piece], answers: Iterable[str]) -> str:
        """Put the answers in place of the sentences, with spaces between them as the target language writes.

        Raises:
            ValueError: when there are not as many answers as pieces to translate.
        """
        spaced = bool(_between_sentences(self.target))
        texts, parts = list(fill(pieces, answers)), []
        padded = [Piece("", False), *pieces, Piece("", False)]
        for before, piece, after, text in zip(padded, pieces, padded[2:], texts, strict=False):
            if spaced and before.translate and piece.translate:
                parts.append(" ")
            elif not spaced and before.translate and after.translate and not piece.text.strip(" "):
                continue
            parts.append(text)
        return "".join(parts)

    def together(self, rows: Sequence[tuple[str, str]]) -> tuple[str, str]:
        """Return rows as one text and its translation: their sentences behind each other, as each language writes."""
        sources, targets = zip(*rows, strict=True)
        return _between_sentences(self.source).join(sources), _between_sentences(self.target).join(targets)


def _between_sentences(code: str) -> str:
    """Return what a language writes between two sentences."""
    return "" if re.split("[-_]", code)[0].lower() in _UNSPACED else " "


def language_name(code: str) -> str:
    """Return the English name of a language, from the Unicode CLDR (e.g. ``ja``: Japanese).

    Raises:
        SpecError: when no language has this code; suggests the one that is probably meant.
    """
    from babel import Locale  # only a build needs names; what runs a model goes without babel

    names = {key: name for key, name in Locale("en").languages.items() if key not in _NOT_LANGUAGES}
    if found := names.get(code.replace("-", "_")):
        return str(found)
    meant = _meant(code.strip(), names)
    suggestion = f"Did you mean {meant!r} ({names[meant]})?" if meant else "Write a code such as 'ja' or 'en'"
    raise SpecError(f"language {code!r:.60}", f"{code!r:.60} is no language code", suggestion)


def _meant(code: str, names: dict[str, str]) -> str | None:
    from babel import Locale, UnknownLocaleError

    by_name = {name.casefold(): key for key, name in names.items()}
    # 'EN' and 'eng' are other spellings of a language, 'jp' and 'cz' are countries.
    for spelling in (code, f"und_{code.upper()}") if re.fullmatch("[A-Za-z]{2,3}", code) else ():
        try:
            language = Locale.parse(spelling).language
        except (ValueError, UnknownLocaleError):
            continue
        if language in names:
            return str(language)
    close = difflib.get_close_matches(code.casefold()[:60], by_name, n=1)
    return by_name[close[0]] if close else None
