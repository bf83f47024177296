"""An answer with its confidence and sources, for a person, for one line of a table, and for machines."""

from collections.abc import Iterable, Iterator
from typing import Any

from metier.artifact import printed_json
from metier.facts.fact import Fact
from metier.run.asking import Answer
from metier.run.session import clean

_LINE_CHARS, _GUESS_CHARS, _MOST_LINES = 200, 60, 3


def paragraph(answer: Answer) -> str:
    """Return an answer as a person reads it: how sure it is beside it, what the store says below."""
    rows = [_plain(answer.text) + (f"   ({how})" if (how := _how_sure(answer)) else "")]
    rows += [f"  {remark}" for remark in _remarks(answer)]
    facts = list(dict.fromkeys([*answer.sources, *(answer.store_says if _shows_store(answer) else ())]))
    rows += [f"  {_cited(fact)}" for fact in facts[:_MOST_LINES]]
    if len(facts) > _MOST_LINES:
        rows.append(f"  and {len(facts) - _MOST_LINES} more lines of the store (--json prints all)")
    return "\n".join(rows)


def row(answer: Answer) -> str:
    """Return an answer as one line of four columns with tabs between: answer, confidence, source, remark.

    The confidence is empty where there is none; the source is the first line that says so, or that says otherwise;
    the remark is "disagrees", "disputed", "read as" with the question as it was read, or empty. Beside an answer that
    is not given there is no source.
    """
    facts = answer.sources or (answer.store_says if answer.disagrees else ())
    read_as = f"read as: {answer.read_as}" if answer.read_as else ""
    remark = "disagrees" if answer.disagrees else "disputed" if any(fact.disputed for fact in facts) else read_as
    source = f"{facts[0].origin.name}: {facts[0].place}" if facts else ""
    confidence = "" if answer.confidence is None else f"{answer.confidence:.3f}"
    return "\t".join(_plain(part) for part in (answer.text, confidence, source, remark))


def as_json(question: str, answer: Answer) -> str:
    """Return a question and its answer as one line of JSON."""
    value = {
        "input": clean(question),
        "output": answer.text,
        "confidence": answer.confidence,
        "probability": answer.probability,
        "sure": answer.sure,
        "guess": answer.guess,
        "looked_up": answer.looked_up,
        "sources": [_fact_json(fact) for fact in answer.sources],
        "store_says": [_fact_json(fact) for fact in answer.store_says],
        "disagrees": answer.disagrees,
        "read_as": answer.read_as,
    }
    return printed_json(value)


def _how_sure(answer: Answer) -> str:
    parts = []
    if answer.confidence is not None:
        parts.append(f"{_percent(answer.confidence)} sure")
    elif answer.probability is not None:
        parts.append(f"{_percent(answer.probability)} by the model's own count, not calibrated")
    if answer.guess is not None:
        guess = _cut(answer.guess, _GUESS_CHARS)
        parts = [f'{part} of "{guess}"' if not at else part for at, part in enumerate(parts)] or [f'not "{guess}"?']
    if not answer.looked_up:
        parts.append("no store to look it up in")
    return "; ".join(parts)


def _remarks(answer: Answer) -> Iterator[str]:
    if answer.read_as is not None:
        yield f"read as: {_cut(answer.read_as, _LINE_CHARS)}"
    if any(fact.disputed for fact in (*answer.sources, *answer.store_says)):
        yield f"disputed: sources say {_values(answer.store_says or answer.sources)}"
    elif answer.disagrees:
        yield f"the store says otherwise: {_values(answer.store_says)}"
    elif not answer.sure and answer.store_says:
        yield f"the store says {_values(answer.store_says)}"
    elif answer.sure and answer.looked_up and not answer.sources:
        yield "no line of the store says so"


def _shows_store(answer: Answer) -> bool:
    return answer.disagrees or not answer.sure or any(fact.disputed for fact in (*answer.sources, *answer.store_says))


def _values(facts: Iterable[Fact]) -> str:
    """Return the different values of facts, each with its subject where these are several."""
    listed = list(facts)
    several = len({fact.subject for fact in listed}) > 1
    shown = dict.fromkeys(f"{fact.value} ({fact.name})" if several else fact.value for fact in listed)
    return _plain((", " if several else " or ").join(list(shown)[: 2 * _MOST_LINES]))


def _cited(fact: Fact) -> str:
    source = f"{fact.origin.attribution or fact.origin.name} ({fact.origin.licence})"
    return f"{_cut(fact.line, _LINE_CHARS)}  -- {_plain(fact.place)}; {_plain(source)}"


def _percent(share: float) -> str:
    return "over 99%" if share > 0.99 else "under 1%" if share < 0.01 else f"{share:.0%}"


def _cut(text: str, chars: int) -> str:
    plain = _plain(text)
    return plain if len(plain) <= chars else plain[: chars - 4].rstrip() + " ..."


def _plain(text: str) -> str:
    """Return a text on one line, without what a terminal or a table could take for an order."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _fact_json(fact: Fact) -> dict[str, Any]:
    return {
        "subject": fact.subject,
        "relation": fact.relation,
        "value": fact.value,
        "line": fact.line,
        "place": fact.place,
        "source": fact.origin.name,
        "licence": fact.origin.licence,
        "attribution": fact.origin.attribution,
        "disputed": fact.disputed,
    }
