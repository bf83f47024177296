"""May a model be shipped, and under what terms? What the licences of its text and weights ask for.

A model is taken to be a derivative of everything it was made from: the careful reading, since the law is not
settled. This is bookkeeping, not legal advice.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

_PORTED = re.compile(r"(cc-by(?:-nc)?(?:-sa|-nd)?-[1-4]\.[05])-[a-z]{2,3}")
"""Creative Commons ports to a country's law, such as CC-BY-2.0-FR: the same obligations."""

_BY_DEBIAN = {"Expat": "MIT", "zlib": "Zlib", "WordNet3.0": "WordNet", "public_domain": "public-domain"}
_DEBIAN_GNU = re.compile(r"(?P<family>A?GPL|LGPL|GFDL)(?:-NIV)?-(?P<version>\d(?:\.\d)?)(?P<later>\+)?")


@dataclass(frozen=True)
class Licence:
    """What a licence asks of a model made from the work.

    Args:
        id: SPDX identifier, or one of our words.
        attribution: the authors must be named.
        under: the licences under one of which alone the model may be passed on; none for any.
        not_under: licences that a model made from it cannot be passed on under.
        non_commercial: only for non-commercial use.
        restricts: it limits what the model may be used for, which share-alike licences forbid to add.
        refused: why a model may not be shipped at all, or "".
        note: a further term, or "".
    """

    id: str
    attribution: bool = True
    under: tuple[str, ...] = ()
    not_under: tuple[str, ...] = ()
    non_commercial: bool = False
    restricts: bool = False
    refused: str = ""
    note: str = ""


class Shipping(NamedTuple):
    """The answer: whether a model may be shipped, the terms if it may, the reasons if not."""

    allowed: bool
    terms: list[str]
    reasons: list[str]


_VERSIONS = ("1.0", "2.0", "2.5", "3.0", "4.0")


def _creative_commons() -> list[Licence]:
    found = []
    for version in _VERSIONS:
        for kind in ("BY", "BY-SA", "BY-ND", "BY-NC", "BY-NC-SA", "BY-NC-ND"):
            parts = kind.split("-")
            found.append(
                Licence(
                    f"CC-{kind}-{version}",
                    under=_share_alike(f"CC-{kind}", version) if "SA" in parts else (),
                    non_commercial="NC" in parts,
                    restricts="NC" in parts,
                    refused="it allows no derivative works" if "ND" in parts else "",
                )
            )
    return found


def _share_alike(kind: str, version: str) -> tuple[str, ...]:
    """Return where a Creative Commons share-alike licence lets go: its later versions (not 1.0); BY-SA 4.0 to GPL 3."""
    later = _VERSIONS[_VERSIONS.index(version) :] if version != "1.0" else (version,)
    return (*(f"{kind}-{each}" for each in later), *(("GPL-3.0",) if (kind, version) == ("CC-BY-SA", "4.0") else ()))


def _gnu() -> list[Licence]:
    found = []
    for family, versions in _GNU.items():
        for at, version in enumerate(versions):
            for suffix in ("", "-only", "-or-later"):
                these = versions[at:] if suffix == "-or-later" else (version,)
                under = [f"{family}-{each}" for each in these]
                if family == "LGPL":  # its section 3 (version 3: 2b) lets go to the GPL
                    under += ["GPL-3.0"] if version == "3.0" else ["GPL-2.0", "GPL-3.0"]
                if "GPL-3.0" in under:  # its section 13
                    under.append("AGPL-3.0")
                found.append(Licence(f"{family}-{version}{suffix}", under=tuple(under)))
    return found


_NO_DUTIES = ("own", "CC0-1.0", "CC-PDDC", "PDDL-1.0", "Unlicense", "0BSD", "MIT-0", "public-domain")
_NOTICE = ("MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "X11", "Python-2.0", "PSF-2.0", "WordNet")
_NOTICE_DATA = ("ODC-By-1.0", "OGL-UK-3.0", "Unicode-3.0", "Unicode-DFS-2016", "CDLA-Permissive-2.0")
_GNU = {"GPL": ("2.0", "3.0"), "AGPL": ("3.0",), "LGPL": ("2.0", "2.1", "3.0"), "GFDL": ("1.2", "1.3")}
_ALL_GNU = tuple(f"{family}-{version}" for family in ("GPL", "AGPL", "LGPL") for version in _GNU[family])
"""EPL-2.0 goes with none of them, unless its text names one as a secondary licence."""
_LLAMA = ("Llama-2", "Llama-3", "Llama-3.1", "Llama-3.2", "Llama-3.3")

_TABLE = [
    *(Licence(name, attribution=False) for name in _NO_DUTIES),
    *(Licence(name) for name in (*_NOTICE, *_NOTICE_DATA)),
    *_creative_commons(),
    *_gnu(),
    Licence(
        "Apache-2.0",
        not_under=("GPL-2.0", "LGPL-2.0", "LGPL-2.1"),
        note="pass on the licence text and any NOTICE file, and state that you changed it",
    ),
    Licence("MPL-2.0", note="files under MPL-2.0 stay under it"),
    Licence("EPL-2.0", not_under=_ALL_GNU, note="files under EPL-2.0 stay under it"),
    Licence("ODbL-1.0", note="say that the database was used; a database made from it stays under ODbL-1.0"),
    Licence(
        "Gemma",
        restricts=True,
        note="pass on the Gemma Terms of Use with a notice that the model is subject to them, "
        "state that you changed it, and bind users to the Gemma Prohibited Use Policy",
    ),
    *(
        Licence(
            name,
            restricts=True,
            note="pass on the Llama licence, show 'Built with Llama' and keep to its Acceptable Use Policy",
        )
        for name in _LLAMA
    ),
    Licence("OpenRAIL", restricts=True, note="pass on its use restrictions"),
    Licence("research-only", refused="it allows research only, not distribution"),
    Licence("proprietary", refused="it gives no right to distribute"),
    Licence("unknown", refused="without a known licence there is no right to distribute"),
]
_BY_ID = {licence.id.casefold(): licence for licence in _TABLE}


def find_licence(name: str) -> Licence | None:
    """Return a licence by its identifier, in any case and for any country's port, or None."""
    wanted = name.strip().casefold()
    if found := _BY_ID.get(wanted):
        return found
    ported = _PORTED.fullmatch(wanted)
    return _BY_ID.get(ported[1]) if ported else None


def from_debian(name: str) -> str:
    """Return the identifier of a licence that a Debian package calls by its own short name, such as ``GPL-2+``."""
    if gnu := _DEBIAN_GNU.fullmatch(name):
        version = gnu["version"] if "." in gnu["version"] else f"{gnu['version']}.0"
        return f"{gnu['family']}-{version}-{'or-later' if gnu['later'] else 'only'}"
    return _BY_DEBIAN.get(name, name)


def may_ship(licences: Iterable[str]) -> Shipping:
    """Return whether a model made under these licences may be shipped, and under what terms.

    Args:
        licences: identifiers of every source and of the base's weights; none at all is not shippable.
    """
    terms: list[str] = []
    reasons: list[str] = []
    known: dict[str, Licence] = {}
    for name in dict.fromkeys(licences):
        licence = find_licence(name)
        if licence is None:
            reasons.append(f"{name}: not a licence we know{_near(name)}")
        else:
            known[name] = licence
    for name, licence in known.items():
        if licence.refused:
            reasons.append(f"{name}: {licence.refused}")
        if licence.attribution:
            terms.append(f"{name}: name the authors and the licence")
        if licence.non_commercial:
            terms.append(f"{name}: for non-commercial use only")
        if licence.under:
            terms.append(f"{name}: ship the model under {' or '.join(_common(known))}")
        if licence.note:
            terms.append(f"{name}: {licence.note}")
    if not known and not reasons:
        reasons.append("nothing is known about what the model was made from")
    reasons += _conflicts(known)
    if not terms:
        terms.append(f"no conditions ({', '.join(known)})")
    return Shipping(not reasons, [] if reasons else terms, reasons)


def _common(known: Mapping[str, Licence]) -> list[str]:
    """Return the licences that all of those that name some agree on."""
    named = [licence.under for licence in known.values() if licence.under]
    barred = {name for licence in known.values() for name in licence.not_under}
    return [name for name in named[0] if name not in barred and all(name in under for under in named)] if named else []


def _conflicts(known: Mapping[str, Licence]) -> list[str]:
    alike = {name: licence for name, licence in known.items() if licence.under}
    if alike and not _common(known):
        barring = [name for name, licence in known.items() if licence.not_under]
        return [f"{' and '.join([*alike, *barring])}: no licence for the whole model satisfies them all"]
    return [
        f"{name} forbids to add restrictions, {other} adds them"
        for name, own in alike.items()
        for other, licence in known.items()
        if licence.restricts and not (own.non_commercial and licence.non_commercial)
    ]


def _near(name: str) -> str:
    near = get_close_matches(name.strip().casefold(), _BY_ID, n=1, cutoff=0.6)
    return f"; did you mean {_BY_ID[near[0]].id!r}?" if near else ", use an SPDX identifier"
