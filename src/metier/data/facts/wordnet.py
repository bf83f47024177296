"""WordNet's nouns (``data.noun``, see wndb(5)): persons, places, events and works, told of in one line each.

A line has the names of one thing, pointers to others (``@i`` to what it is an instance of, ``#p`` to the whole it is a
part of), and a gloss: "English novelist (born in India) noted for ... (1903-1950)".
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from metier.data.facts.found import LONGEST_LIFE, Found, Left, Line, Subject, dated, without_remarks
from metier.facts import names
from metier.facts.dates import MONTH, Date, NotADateError, parse
from metier.facts.fact import Kind
from metier.facts.mentions import Mention, mentions

_KINDS: dict[str, Kind] = {"18": "person", "15": "place", "17": "place", "04": "event", "11": "event", "28": "event"}
_WORKS = ("06", "10", "14")
"""Files of artefacts, writings and groups: what is founded, built or published."""


_LIVES = ("born", "died", "lived")

_SHORT_CHARS = 60
_CUT = re.compile(
    r"[;:,]|\s(?:--|who|whom|whose|which|that|where|when|while|because|although|noted|known|remembered|considered|"
    r"celebrated|regarded|recalled|concerned|famous (?:for|as|because)|best (?:known|remembered)|especially|having|"
    r"being|consisting|containing|formed|according)\b"
)
_LINKS = (
    "and|or|of|in|on|at|for|from|to|by|with|during|under|between|near|about|after|before|into|off|against|through|along|"
    "over|than|as|across"
)
_BOUNDARY = re.compile(rf"\s(?:{_LINKS})\s")
_ADVERBS = r"long|once|now|also|first|(?:north|south)(?:east|west)?|east|west|(?!family|assembly|monopoly)[a-z]+ly"
_DANGLING = re.compile(rf"(?:\s(?:{_LINKS}|{_ADVERBS}|the|a|an|ruled|built|located|situated))+$")
_HALF = re.compile(r"\sbetween\b(?!.*\sand\s).*")
_EXAMPLE = re.compile(r'; ?"[^"]*"')
_BRACKET = re.compile(r"\(([^()]*)\)")
_YEAR = r"(?:AD\s)?\d{1,4}\??(?:\s?BC|\sAD)?"
_LIFE = re.compile(rf"(?P<circa>(?:circa|ca?\.?)\s)?(?P<born>{_YEAR}|\?)\s?(?:-|\bto\b)\s?(?P<died>{_YEAR})?")
_BORN = re.compile(r"born(?: in (?P<place>[A-Z][^\d,;]*?))?(?:(?: in)? (?P<date>(?:circa )?\d[^,;]*))?")
_PLACE_ALONE = re.compile(
    r"\s(?:but|where|who|and)\b|\sof (?:\w+ )+(?:descent|parents|parentage|ancestry|origin|stock)\b"
)
_DIED = re.compile(r"died (?:in |around )?(?P<date>(?:circa )?\d[^,;]*)")
_CENTURY = re.compile(r"(?:of the |circa |early |late )?\d{1,2}(?:st|nd|rd|th) century(?: BC)?")
_SEVERAL = re.compile(r"^(?:any|either|both|two|twin|family|brothers|sisters)\b|\bfamily of\b")
_RULER = re.compile(
    r"\b(?:king|queen|emperor|empress|pope|ruler|czar|tsar|sultan|shah|caliph|"
    r"(?:president|prime minister|chancellor) of)\b"
    r"[^;()]*?\b(?P<span>from \S+ (?:to|until) \d\S*)",
    re.IGNORECASE,
)
_NO_RULER = re.compile(r"\b(?:labou?r (?:leader|organizer)|unions?)\b")
_CAPITAL = re.compile(r"\bcapital\b(?: city)?(?: and (?:the )?[a-z ]+?)*? of (?:the )?(?P<of>[^;()]+)")
_STATE = re.compile(r"^(?:(?:state|province|republic|commonwealth|island) of )?(?:the )?")
_PAST = re.compile(r"\b(?:former|formerly|ancient|old|once|until|was|were|legend|first|from \d)\b")
_MADE = {
    "founded": ("founded", "established", "created", "formed", "organized", "instituted"),
    "built": ("built", "erected", "constructed", "completed", "opened"),
    "published": ("published", "written"),
    "adopted": ("adopted", "signed", "ratified"),
}
_RELATION_OF = {verb: relation for relation, verbs in _MADE.items() for verb in verbs}
_WAS_MADE = re.compile(
    rf"(?P<before>\w+)?\s*\b(?P<verb>{'|'.join(_RELATION_OF)})\b"
    r"(?: (?:in|at|by) (?:the )?[A-Z][\w.'-]*(?: (?:of |the |and |de |bin )?[A-Z][\w.'-]*)*)? "
    r"(?:in|about|around) (?=(?:about |the )?(?:early |mid |late )?\d)"
)
_SUPPOSED = re.compile(r"\b(?:may|might|perhaps|probably|supposed|said|traditionally)\b[^;]*$")
_OF_ANOTHER = re.compile(r"\b(?:of|on|for|at|with|in|from) (?:an?|the) (?:[\w-]+ ){0,3}$")
"""What was made is not the subject: "site of a university founded in 1613"."""
_NEAR = 12
"""Most characters between a verb's end and its date: "in the early "."""
_ACTIVE = re.compile(r"\b(?:who|that|which|where|whose)\b[^;]*$")
_NAME = re.compile(r"[A-Z][\w'-]*(?: (?:of |the |and |de |del )*[A-Z][\w'-]*)*")
_ANY_OF = re.compile(r"(?:any|either|each|both) of\b")
_MONTHS_BEFORE = re.compile(rf"\b(?:{MONTH})\s*(?:to|and|or|-)\s*$")
_BATTLE = re.compile(r"\b(?:battle|siege)\b")


class _Synset(NamedTuple):
    number: int
    offset: str
    file: str
    words: tuple[str, ...]
    pointers: tuple[tuple[str, str], ...]
    gloss: str

    @property
    def is_one(self) -> bool:
        """Whether it is one thing and no kind of things: an instance, or of a group or work with a proper name."""
        return any(sign == "@i" for sign, _ in self.pointers) or (self.file in _WORKS and self.words[0][:1].isupper())

    @property
    def wholes(self) -> list[str]:
        return [offset for sign, offset in self.pointers if sign == "#p"]


def read_wordnet(file: str, lines: Iterable[str]) -> Iterator[Found | Left]:
    """Yield what the lines of a ``data.noun`` say of persons, places, events and works.

    Args:
        file: its name, for the facts' places.
        lines: of the file.
    """
    synsets = {}
    for number, line in enumerate(lines, 1):
        if synset := _synset(number, line):
            synsets[synset.offset] = synset
    spoken = Counter(name for synset in synsets.values() for name in _NAME.findall(synset.gloss))
    for synset in synsets.values():
        if synset.is_one:
            yield from _facts(file, synset, synsets, spoken)


def _synset(number: int, line: str) -> _Synset | None:
    head, bar, gloss = line.partition(" | ")
    fields = head.split()
    if not bar or line.startswith(" ") or len(fields) < 6:
        return None  # the licence at its head
    words = int(fields[3], 16)
    after = 4 + 2 * words
    pointers = tuple((fields[at], fields[at + 1]) for at in range(after + 1, after + 1 + 4 * int(fields[after]), 4))
    spelt = tuple(word.replace("_", " ") for word in fields[4:after:2])
    return _Synset(number, fields[0], fields[1], spelt, pointers, gloss.strip())


def _facts(
    file: str, synset: _Synset, synsets: dict[str, _Synset], spoken: Mapping[str, int]
) -> Iterator[Found | Left]:
    subject, line = _subject(synset, spoken), _line(file, synset)
    told = _EXAMPLE.sub("", synset.gloss)
    if any(sign == "@i" for sign, _ in synset.pointers):
        description = describe(told)
        if not description:
            yield Left("no short answer", line)
        elif names.says(" ".join(subject.names), description):
            yield Left("described by its own name", line)
        else:
            yield Found(subject, "described as", description, None, line)
    if subject.kind == "person":
        yield from _life(subject, told, line)
    elif subject.kind == "event":
        yield from _when(subject, told, line)
    elif subject.kind == "place":
        wholes = [synsets[offset] for offset in synset.wholes if offset in synsets]
        yield from _where(subject, told, line, [(whole, _subject(whole, spoken)) for whole in wholes])
    if synset.file in (*_WORKS, "15"):
        yield from _made(subject, told, line)


def _line(file: str, synset: _Synset) -> Line:
    return Line(f"{file}, line {synset.number}", f"{', '.join(synset.words)}: {synset.gloss}")


def _subject(synset: _Synset, spoken: Mapping[str, int]) -> Subject:
    """Return what a line is about; a place goes by the name that other lines use most."""
    kind: Kind = "work" if synset.file in _WORKS else _KINDS.get(synset.file, "")
    spelt = [word for word in synset.words if not word.startswith("capital of ")] or list(synset.words)
    hint = _without_dates(describe(_EXAMPLE.sub("", synset.gloss)) or "")
    if kind == "person":
        chosen = _full_name(spelt)
    elif kind == "event" and _BATTLE.search(hint):
        fights = [word for word in spelt if _BATTLE.search(word.lower())]
        chosen = fights[0] if fights else f"Battle of {spelt[0]}" if "battle" in hint else spelt[0]
        chosen = chosen[0].upper() + chosen[1:]
    elif kind == "place":
        chosen = max(spelt, key=lambda word: spoken.get(word, 0))
    else:
        chosen = spelt[0]
    return Subject(tuple(dict.fromkeys([chosen, *spelt])), kind, hint, synset.offset)


def _full_name(spelt: list[str]) -> str:
    """Return "Jane Austen" from "Austen, Jane Austen": the first name of several words that has the first one in it."""
    first = spelt[0]
    if " " in first and first[0].isupper():
        return first
    numbered = [word for word in spelt[1:] if re.fullmatch(rf"{re.escape(first)} [IVX]+", word)]
    surnames = [word for word in spelt[1:] if word.endswith(f" {first}")]
    longer = [word for word in spelt[1:] if word.startswith(f"{first} ")]
    return (numbered or surnames or longer or [first])[0]


def describe(gloss: str) -> str | None:
    """Return what a gloss says in a few words: "English novelist"; None when its first words make no sense alone."""
    plain = without_remarks(gloss)
    cut = _CUT.search(plain)
    head = plain[: cut.start()] if cut else plain
    while len(head) > _SHORT_CHARS and (places := [found.start() for found in _BOUNDARY.finditer(head)]):
        head = head[: places[-1]]
    head = _HALF.sub("", head)
    head = _DANGLING.sub("", re.sub(r"^(?:an?|the)\s", "", head.strip(), flags=re.IGNORECASE)).strip(" .-")
    return head if 3 <= len(head) <= _SHORT_CHARS and (not cut or " " in head or cut[0] != ",") else None


def _without_dates(hint: str) -> str:
    """Return the words before any figures: what tells a subject from others must not answer when it was."""
    told = re.split(r"\d", hint)[0]
    if told == hint:
        return hint
    places = [found.start() for found in _BOUNDARY.finditer(told)]
    return _DANGLING.sub("", told[: places[-1]]).strip() if places else ""


def _life(subject: Subject, told: str, line: Line) -> Iterator[Found | Left]:
    lives: list[tuple[Date | None, Date | None]] = []
    for inside in _BRACKET.findall(told):
        try:
            if (born := _BORN.fullmatch(inside)) and (born["place"] or born["date"]):
                if born["place"]:
                    place = _PLACE_ALONE.split(born["place"])[0].strip().removeprefix("the ")
                    yield Found(subject, "born in", place, None, line)
                if born["date"]:
                    lives.append((parse(born["date"], short_years=True), None))
            elif died := _DIED.fullmatch(inside):
                lives.append((None, parse(died["date"], short_years=True)))
            elif span := _LIFE.fullmatch(inside):
                lives.append(_span(span))
            elif _CENTURY.fullmatch(inside):
                yield dated(subject, "lived", parse(inside.removeprefix("of the ")), line)
        except NotADateError as error:
            yield Left(error.reason, line, (subject, _LIVES))
    if len(lives) > 1 or (lives and _SEVERAL.search(subject.hint)):
        yield Left("several lives in one line", line, (subject, _LIVES))
    elif lives:
        yield from _both_ends(subject, *lives[0], line)
    if (ruled := _RULER.search(told)) and not _NO_RULER.search(told):
        found = list(mentions(ruled["span"]))
        if re.match(r" and (?:again|from|in)\b", told[ruled.end() :]):
            yield Left("several reigns", line, (subject, ("ruled",)))
        elif len(found) == 1 and found[0].date.first[0] != found[0].date.last[0]:
            yield dated(subject, "ruled", found[0].date, line)


def _span(found: re.Match[str]) -> tuple[Date | None, Date | None]:
    born, died = found["born"], found["died"]
    if died and died.endswith("BC") and born.strip("?").isdigit():
        born += " BC"
    circa = "circa " if found["circa"] else ""
    return (
        None if born.startswith("?") else parse(circa + born, short_years=True),
        parse(circa + died, short_years=True) if died else None,
    )


def _both_ends(subject: Subject, born: Date | None, died: Date | None, line: Line) -> Iterator[Found | Left]:
    if born and died and not 0 <= died.first[0] - born.first[0] <= LONGEST_LIFE:
        yield Left("impossible life", line, (subject, _LIVES))
        return
    if born:
        yield dated(subject, "born", born, line)
    if died:
        yield dated(subject, "died", died, line)


def _when(subject: Subject, told: str, line: Line) -> Iterator[Found | Left]:
    found = list(mentions(told))
    bracketed = [mention for mention in found if _in_brackets(told, mention)]
    first_clause = [mention for mention in found if mention.end <= len(told.partition(";")[0])]
    if _ANY_OF.match(told):
        yield Left("several events in one line", line, (subject, ("occurred",)))
        return
    for chosen in (found, bracketed, first_clause):
        if len(chosen) == 1 and not _MONTHS_BEFORE.search(told[: chosen[0].start]):
            yield dated(subject, "occurred", chosen[0].date, line)
            return
    yield Left("several dates" if found else "no date", line, (subject, ("occurred",)) if found else None)


def _in_brackets(text: str, mention: Mention) -> bool:
    return text[: mention.start].rstrip().endswith("(") and text[mention.end :].lstrip().startswith(")")


def _where(subject: Subject, told: str, line: Line, wholes: list[tuple[_Synset, Subject]]) -> Iterator[Found | Left]:
    seen = set()
    for whole, _ in wholes:
        named = [word for word in whole.words if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", told)]
        own = {names.key(name) for name in subject.names}
        if named and not {names.key(word) for word in whole.words} & own:
            seen.add(max(named, key=len))
    for name in sorted(seen):
        yield Found(subject, "located in", name, None, line)
    if wholes and not seen:
        yield Left("the whole is not named in the line", line)
    clause = told.partition(";")[0]
    if capital := _CAPITAL.search(clause):
        of = _STATE.sub("", capital["of"])
        found = [
            of_what for whole, of_what in wholes if any(re.match(rf"{re.escape(w)}(?!\w)", of) for w in whole.words)
        ]
        if len(found) == 1 and not _PAST.search(clause):
            yield Found(found[0], "capital", subject.names[0], None, line)
        else:
            for _, of_what in wholes:
                yield Left("capital of what is not clear", line, (of_what, ("capital",)))
            if not wholes:
                yield Left("capital of what is not clear", line)


def _made(subject: Subject, told: str, line: Line) -> Iterator[Found | Left]:
    for made in _WAS_MADE.finditer(told):
        before = told[: made.start("verb")]
        agent = made["before"] or ""
        by_somebody = agent[:1].isupper() or agent in ("and", "they", "he", "she", "re")
        if (
            by_somebody
            or _OF_ANOTHER.search(before)
            or _ACTIVE.search(before.rpartition(";")[2])
            or _SUPPOSED.search(before)
        ):
            yield Left("made, but by whom is not clear", line, (subject, (_RELATION_OF[made["verb"]],)))
            continue
        there = [mention for mention in mentions(told) if abs(mention.start - made.end()) <= _NEAR]
        if there:
            yield dated(subject, _RELATION_OF[made["verb"]], there[0].date, line)
            return
