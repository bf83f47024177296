"""Answer a question of a qa job: the model first, then how sure it is, then what the store says."""

import re
import unicodedata
from dataclasses import dataclass, replace
from math import exp

from metier.facts.answers import abstains, plain
from metier.facts.confidence import Calibration
from metier.facts.fact import Fact
from metier.facts.lookup import look_up
from metier.facts.spelling import corrected
from metier.facts.store import Store
from metier.run.engine import Engine, Reply
from metier.tasks.qa import Qa

_AS_TYPED = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"})
"""Marks that programs put for those of the keyboard, by which most sources write names."""

_JOINERS = "\u200c\u200d"
_UNSEEN = str.maketrans(
    dict.fromkeys(
        char for char in map(chr, range(0x10000)) if unicodedata.category(char) == "Cf" and char not in _JOINERS
    )
)
"""Marks for programs, which say nothing: where a line may break, in which direction a word runs. Two of them change how
letters are joined, in Persian for one, and stay."""

_MARKED = re.compile(rf"(?:(?<!\w)\w*|(?<=\w))[{''.join(map(chr, _AS_TYPED))}]\w*")
_ACCENTED = re.compile(r"(?<![^\W\d_])[^\W\d_]*[\u00c0-\u024f][^\W\d_]*")
"""Words with a Latin letter that is none of the alphabet's."""

_LETTERS = str.maketrans(
    {"\u00c6": "Ae", "\u00e6": "ae", "\u00d8": "O", "\u00f8": "o", "\u0110": "D", "\u0111": "d", "\u0131": "i"}
    | {"\u0141": "L", "\u0142": "l", "\u0152": "Oe", "\u0153": "oe", "\u00df": "ss", "\u00d0": "D", "\u00f0": "d"}
    | {"\u00de": "Th", "\u00fe": "th"}
)
"""Those of them that are no letter of the alphabet with an accent."""

MOST_TOKENS = 96
"""Longest answer; the facts' own have at most 80 characters."""


@dataclass(frozen=True)
class Answer:
    """What is said to a question, and what speaks for it. Model and store are kept apart: neither corrects the other.

    Attributes:
        text: the answer, or the task's words for not knowing.
        confidence: probability, 0 to 1, that what the model said is right, by the calibration of the very file; None
            without a calibration, and where the model said nothing that could be right.
        probability: the model's own, 0 to 1, of what it said, which nobody put right; None as above.
        sure: whether an answer is given.
        guess: what the model said where it was not sure enough; else None.
        looked_up: whether there is a store, in which the question was looked up.
        sources: lines of the store that say what the answer says.
        store_says: what the store has as the answer, whatever the model said, where it is clear what is asked.
        disagrees: whether the store has another value that nothing disputes.
        read_as: the question as it was asked, where a name in it was misspelt; else None.
    """

    text: str
    confidence: float | None = None
    probability: float | None = None
    sure: bool = False
    guess: str | None = None
    looked_up: bool = False
    sources: tuple[Fact, ...] = ()
    store_says: tuple[Fact, ...] = ()
    disagrees: bool = False
    read_as: str | None = None


@dataclass(frozen=True)
class Asker:
    """Answers questions with a model, and its calibration and store if there are any; safe to use from threads."""

    engine: Engine
    task: Qa
    store: Store | None = None
    calibration: Calibration | None = None

    def ask(self, question: str) -> Answer:
        """Answer a question; one without a letter or digit is not known, without asking the model.

        Raises:
            InputError: when the question does not fit into the context.
            RunError: when the store is locked.
            ArtifactError: when the store turns out to be damaged.
        """
        if not any(map(str.isalnum, question)):
            return Answer(self.task.unknown, looked_up=self.store is not None)
        self.engine.check_length(question)
        asked = self._as_written(question)
        if self.store is not None and (read_as := corrected(self.store, asked)):
            return replace(self._asked(read_as), read_as=read_as)
        return self._asked(asked)

    def _asked(self, asked: str) -> Answer:
        limit = min(MOST_TOKENS, self.engine.context_tokens // 2)
        reply = self.engine.chat(asked, max_tokens=limit, probabilities=True)
        said = reply.text.strip()
        if abstains(said, self.task.unknown):
            return self._with_facts(asked, Answer(said if plain(said) else self.task.unknown))
        return self._with_facts(asked, self._weighed(said, reply))

    def _as_written(self, question: str) -> str:
        """Return a question as the model was taught to read it: with no marks and accents but those of the store."""
        asked = unicodedata.normalize("NFC", " ".join(question.translate(_UNSEEN).split()))
        if asked.isupper() and asked.count(" ") > 1:
            asked = asked.lower()  # as some questions of the training are
        if asked.isascii():
            return asked
        asked = _MARKED.sub(lambda word: word[0] if self._is_taught(word[0]) else word[0].translate(_AS_TYPED), asked)
        if self.store is None:
            return asked
        return _ACCENTED.sub(lambda word: word[0] if self._is_taught(word[0]) else _without_accents(word[0]), asked)

    def _is_taught(self, word: str) -> bool:
        return self.store is not None and self.store.spells(word)

    def _weighed(self, said: str, reply: Reply) -> Answer:
        probability = None if reply.logprob is None else exp(min(0.0, reply.logprob))
        confidence, enough = None, True
        if self.calibration is not None and reply.logprob is not None:
            confidence, enough = self.calibration.confidence(reply.logprob), self.calibration.sure(reply.logprob)
        if enough and reply.finished:
            return Answer(said, confidence, probability, True)
        return Answer(self.task.unknown, confidence, probability, False, said)

    def _with_facts(self, question: str, answer: Answer) -> Answer:
        if self.store is None:
            return answer
        found = look_up(self.store, question, answer.text if answer.sure else None)
        return replace(
            answer, looked_up=True, sources=found.sources, store_says=found.values, disagrees=found.disagrees
        )


def _without_accents(word: str) -> str:
    parts = unicodedata.normalize("NFKD", word.translate(_LETTERS))
    return "".join(part for part in parts if not unicodedata.combining(part))
