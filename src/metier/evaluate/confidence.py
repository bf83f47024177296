"""What a contestant knows, what it says of what it cannot know, and whether its confidence tells the two apart.

Definitions and sources: docs/steps/confidence.md.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from metier.data.questions.about import About
from metier.data.records import Record
from metier.errors import ArtifactError
from metier.evaluate.answers import Answer
from metier.evaluate.calibration import (
    Auroc,
    Curve,
    Rate,
    Reliability,
    Threshold,
    auroc,
    fit,
    reliability,
    risk_coverage,
    threshold,
)
from metier.evaluate.metrics import Score, score
from metier.facts.answers import abstains, right, settled
from metier.facts.confidence import Calibration
from metier.facts.dates import ordinal

WRONG_SHOWN, ANSWERED_SHOWN = 40, 20
"""So many wrong answers, and questions without an answer that were answered, are kept to be read."""


@dataclass(frozen=True)
class Asked:
    """A question, what was said to it, and whether that is an answer and a right one."""

    question: str
    wanted: str
    said: str
    settled: str
    """The same, or the right answer where it is another of its names (`metier.facts.answers.settled`)."""
    logprob: float
    """Of what was said, in nats."""
    about: About
    answered: bool
    """False where it says in words that it does not know, or nothing at all (`metier.facts.answers.abstains`)."""
    right: bool
    """Whether it is a right answer; of an invented subject there is none, of a withheld one what the sources say."""

    @property
    def subject(self) -> str:
        """What it is about; a question that names no subject is one of its own."""
        return self.about.subject or self.question

    @property
    def known(self) -> bool:
        """Whether the question has an answer that was taught."""
        return self.about.kind == "known"


def asked(
    records: Sequence[Record],
    answers: Sequence[Answer],
    abouts: Sequence[About],
    unknown: str,
    also: Sequence[Sequence[str]] | None = None,
) -> list[Asked]:
    """Return an exam's rows with a contestant's answers.

    Args:
        records: questions and references.
        answers: one for each, with log-probabilities.
        abouts: what each question is about.
        unknown: the job's words for not knowing.
        also: of each question other names of its answer.

    Raises:
        ValueError: when the numbers differ, or an answer has no log-probability.
    """
    found = []
    for record, answer, about, names in zip(records, answers, abouts, also or [()] * len(records), strict=True):
        if answer.logprob is None:
            raise ValueError(f"the answer to {record.input!r} has no log-probability")
        truth = _truth(record, about)
        text = settled(answer.text, truth, names)
        answered = not abstains(text, unknown, truth)
        is_right = answered and right(text, truth)
        found.append(Asked(record.input, record.output, answer.text, text, answer.logprob, about, answered, is_right))
    return found


def _truth(record: Record, about: About) -> str:
    """Return the right answer; nothing where there is none.

    What is withheld from a model that was taught by this job, others may have been taught.
    """
    if about.kind == "known":
        return record.output
    if about.kind == "invented":
        return ""
    return about.value if about.form == "ask" else about.subject.partition(" (")[0]


def calibrated(validation: Sequence[Asked], risk: float) -> tuple[Calibration, Threshold]:
    """Return the curve and the threshold that answers on validation questions give, and what the threshold keeps there.

    The curve is fitted to what was answered, to questions with and without an answer.

    Args:
        validation: the questions, with and without an answer, mixed as the exam is.
        risk: most answers that may be wrong, of those given; and most questions without an answer that may be answered.
    """
    answered = [one for one in validation if one.answered]
    curve = Calibration(*fit([one.logprob for one in answered], [one.right for one in answered]), math.inf, risk)
    chosen = threshold(
        [curve.confidence(one.logprob) for one in validation],
        [one.right for one in validation],
        [not one.known for one in validation],
        [one.answered for one in validation],
        risk,
        [one.subject for one in validation],
    )
    return Calibration(curve.slope, curve.intercept, chosen.value, risk), chosen


@dataclass(frozen=True)
class Way:
    """What comes of one way of not answering.

    Attributes:
        coverage: of the known questions, those answered.
        right: of the known questions that are answered, those answered rightly.
        wrong: of all answers given, to known, withheld and invented questions, the wrong ones.
        withheld: of the questions on withheld subjects, those answered.
        invented: of the questions on invented subjects, those answered.
        unknown: of both together, those answered.
    """

    coverage: Rate
    right: Rate
    wrong: Rate
    withheld: Rate
    invented: Rate
    unknown: Rate


@dataclass(frozen=True)
class Group:
    """Known questions of one kind: those answered rightly, those given with the threshold, and the wrong of these."""

    name: str
    right: Rate
    given: Rate
    wrong: Rate


@dataclass(frozen=True)
class Shown:
    """An answer to read, with its calibrated confidence, 0 to 1."""

    question: str
    wanted: str
    said: str
    confidence: float
    kind: str
    given: bool
    """Whether the threshold lets it through."""


@dataclass(frozen=True)
class Knowledge:
    """What was measured of one contestant.

    Attributes:
        name: the contestant's.
        calibration: fitted on validation questions.
        chosen: what its threshold keeps on those.
        exact: share of the known questions answered rightly, in percent.
        f1: mean F1 of the known questions, in percent.
        own: not answering in its own words alone.
        sure: with the threshold on top.
        known_curve: risk by coverage, over the known questions.
        all_curve: the same over all questions.
        before: calibration of its own probability, over all answers.
        after: the same of the calibrated confidence.
        known_or_not: how well confidence tells questions with an answer from those without.
        right_or_wrong: how well it tells right from wrong answers to known questions.
        errors: known questions by century, region, relation and form.
        wrong: wrong answers to known questions, the surest first.
        answered: questions without an answer that it answered in its own words, the surest first.
    """

    name: str
    calibration: Calibration
    chosen: Threshold
    exact: Score
    f1: Score
    own: Way
    sure: Way
    known_curve: Curve
    all_curve: Curve
    before: Reliability
    after: Reliability
    known_or_not: Auroc
    right_or_wrong: Auroc
    errors: dict[str, tuple[Group, ...]]
    wrong: tuple[Shown, ...]
    answered: tuple[Shown, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the measurements as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ArtifactError: when it is something else.
        """
        try:
            return TypeAdapter(cls).validate_python(value)
        except ValidationError as error:
            fix = "Delete the folder of the step 'export' and run 'metier build' again"
            raise ArtifactError("what was measured of knowledge", f"cannot be read ({error})", fix) from error


def knowledge_of(name: str, validation: Sequence[Asked], test: Sequence[Asked], risk: float) -> Knowledge:
    """Return what a contestant knows, by its answers, with its own calibration on validation questions.

    Args:
        name: the contestant's.
        validation: questions with and without an answer, to calibrate on.
        test: others, to measure on; mixed alike.
        risk: most answers that may be wrong, of those given; and most questions without an answer that may be answered.

    Raises:
        DataError: when no question of the test has an answer.
    """
    calibration, chosen = calibrated(validation, risk)

    def given(one: Asked) -> bool:
        return one.answered and calibration.sure(one.logprob)

    def sureness(one: Asked) -> float:
        return one.logprob if one.answered else -math.inf

    def shown(rows: Iterable[Asked], most: int) -> tuple[Shown, ...]:
        surest = sorted(rows, key=lambda one: -one.logprob)[:most]
        return tuple(
            Shown(one.question, one.wanted, one.said, calibration.confidence(one.logprob), one.about.kind, given(one))
            for one in surest
        )

    known = [one for one in test if one.known]
    subjects = [one.subject for one in known]
    said = [one for one in test if one.answered]
    texts, references = [one.settled for one in known], [one.wanted for one in known]
    is_right = [one.right for one in said]
    about = [one.subject for one in said]
    known_said = [one for one in known if one.answered]
    return Knowledge(
        name,
        calibration,
        chosen,
        score("answer", texts, references, groups=subjects),
        score("f1", texts, references, groups=subjects),
        _way(test, lambda one: one.answered),
        _way(test, given),
        risk_coverage([sureness(one) for one in known], [one.right for one in known]),
        risk_coverage([sureness(one) for one in test], [one.right for one in test]),
        reliability([math.exp(one.logprob) for one in said], is_right, about),
        reliability([calibration.confidence(one.logprob) for one in said], is_right, about),
        auroc([sureness(one) for one in test], [one.known for one in test]),
        auroc([one.logprob for one in known_said], [one.right for one in known_said]),
        {kind: _groups(known, name_of, given) for kind, name_of in _KINDS.items()},
        shown((one for one in known_said if not one.right), WRONG_SHOWN),
        shown((one for one in said if not one.known), ANSWERED_SHOWN),
    )


def _way(test: Sequence[Asked], given: Callable[[Asked], bool]) -> Way:
    known = [one for one in test if one.known]
    return Way(
        _rate(known, given),
        _rate([one for one in known if given(one)], lambda one: one.right),
        _rate([one for one in test if given(one)], lambda one: not one.right),
        _rate([one for one in test if one.about.kind == "withheld"], given),
        _rate([one for one in test if one.about.kind == "invented"], given),
        _rate([one for one in test if not one.known], given),
    )


def _rate(rows: Sequence[Asked], flag: Callable[[Asked], bool]) -> Rate:
    return Rate.of([flag(one) for one in rows], [one.subject for one in rows])


def _groups(
    known: Sequence[Asked], name_of: Callable[[About], tuple[int, str]], given: Callable[[Asked], bool]
) -> tuple[Group, ...]:
    """Return the groups in the order of their keys; equal keys with the larger group first."""
    members: dict[tuple[int, str], list[Asked]] = {}
    for one in known:
        members.setdefault(name_of(one.about), []).append(one)
    order = sorted(members, key=lambda key: (key[0], -len(members[key]), key[1]))
    return tuple(
        Group(
            key[1],
            _rate(members[key], lambda one: one.right),
            _rate(members[key], given),
            _rate([one for one in members[key] if given(one)], lambda one: not one.right),
        )
        for key in order
    )


def century(year: int | None) -> tuple[int, str]:
    """Return a century's number, negative before Christ, and its name."""
    if year is None:
        return 10**6, "no date"
    number = (abs(year) - 1) // 100 + 1
    name = f"{ordinal(number)} century"
    return (number, name) if year > 0 else (-number, f"{name} BC")


_KINDS: dict[str, Callable[[About], tuple[int, str]]] = {
    "century": lambda about: century(about.year),
    "region": lambda about: (0, about.region) if about.region else (1, "not told"),
    "relation": lambda about: (0, about.relation),
    "form": lambda about: (0, about.form),
}
"""By what errors are counted: of a question, the place of its group and its name."""
