"""What the job is, as tables of the job description."""

from typing import Self

from pydantic import Field, field_validator, model_validator

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
