"""What the job is, as tables of the job description."""

from typing import Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from metier.errors import SpecError
from metier.spec.strict import Strict, mistake, printable
from metier.tasks.translation import language_name


class Translation(Strict):
    """The languages of a translation job."""

    source: str = Field(description="Language translated from: a code such as 'ja'.")
    target: str = Field(description="Language translated into: a code such as 'en'.")

    @field_validator("source", "target")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            language_name(value)
        except SpecError as error:
            raise mistake("", error.found, error.fix) from error
        return value

    @model_validator(mode="after")
    def _two_languages(self) -> Self:
        if self.source == self.target:
            raise mistake("target", f"{self.target!r} is also the source language", "Write two different codes")
        return self


class Text2Text(Strict):
    """The words by which a text2text job calls its two sides, in the prompt."""

    input: str = Field("Input", min_length=1, description="What an input is called, e.g. 'Question'.")
    output: str = Field("Output", min_length=1, description="What an output is called, e.g. 'Answer'.")

    @field_validator("input", "output")
    @classmethod
    def _one_line(cls, value: str) -> str:
        return printable(value, "Write a word such as 'Question'")


class Phrasings(Strict):
    """Ways to ask for a relation: for one of a table of your own, or further ones for a relation that has some."""

    relation: str = Field(min_length=1, description="The relation, as its sources call it.")
    ask: list[str] = Field(
        min_length=1, description="Questions for the value, each with {subject} in it: 'When was {subject} founded?'."
    )
    reverse: list[str] = Field(default_factory=list, description="Questions for the subject, each with {value} in it.")

    @field_validator("ask", "reverse")
    @classmethod
    def _with_their_place(cls, value: list[str], info: ValidationInfo) -> list[str]:
        place = "{subject}" if info.field_name == "ask" else "{value}"
        for phrasing in value:
            if printable(phrasing, "Write a question").count(place) != 1:
                raise mistake("", f"{phrasing!r} has no {place}", f"Write {place} once, where it is to stand")
        return value


class Qa(Strict):
    """Questions made of the facts, and what is to be done about what the model does not know."""

    unknown: str = Field("I don't know.", min_length=1, description="What it says when it does not know.")
    risk: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Largest share of the answers it gives that may be wrong, and of the questions it was never taught "
        "that it may answer. What is less sure is not answered.",
    )
    relations: list[str] | None = Field(
        None, min_length=1, description="Relations asked for; by default all of the sources."
    )
    variants: int = Field(12, ge=1, description="Different questions for each fact among the training rows.")
    withheld_share: float = Field(
        0.04,
        ge=0,
        lt=0.5,
        description="Share of the subjects of which nothing is learned, to examine what it says of what it never saw.",
    )
    abstain_share: float = Field(
        0.1,
        ge=0,
        lt=0.9,
        description="Share of the training rows that ask what nobody could know and are answered with 'unknown'; 0 for "
        "a model that never says so by itself.",
    )
    comparison_share: float = Field(
        0.05, ge=0, lt=0.9, description="Share of the training rows that ask which of two came first."
    )
    source_tags: bool = Field(
        False, description="Whether every other training question begins with the name of its fact's source."
    )
    phrasings: list[Phrasings] = Field(default_factory=list, description="Further ways to ask.")

    @field_validator("unknown")
    @classmethod
    def _one_line(cls, value: str) -> str:
        return printable(value, 'Write a sentence such as "I don\'t know."')

    @model_validator(mode="after")
    def _facts_left(self) -> Self:
        if self.abstain_share + self.comparison_share >= 1:
            found = f"together with comparison_share = {self.comparison_share} no row is left for the facts"
            raise mistake("abstain_share", found, "Write lower shares")
        return self
