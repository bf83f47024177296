"""What every source of text or of facts states of itself, as keys of the job description."""

import codecs
from typing import Any, Literal

from pydantic import Field, field_validator

from metier.spec.strict import Strict, mistake, printable


class Stated(Strict):
    """What every source states: where it is, under what licence, by whom."""

    source: str
    licence: str = Field(
        description="SPDX identifier such as 'CC-BY-4.0', 'own' for your own text, or 'unknown' "
        "(which can never be released)."
    )
    attribution: str = Field("", description="Who is to be named: authors, project, link.")
    path: str | None = None
    encoding: str = Field("utf-8", description="Text encoding of the file.")
    delimiter: Literal[",", ";", "\t"] = Field(",", description="For csv: what stands between two cells.")

    @property
    def identity(self) -> dict[str, Any]:
        """All that the source states, for the key of what is made from it; a later key is none where it is not used."""
        return self.model_dump(mode="json", exclude={"delimiter"} if self.delimiter == "," else None)

    def local_names(self) -> tuple[str, ...]:
        """Return the names of the source's files or folders; none where it is not local."""
        kind, _, name = self.source.partition(":")
        return (name,) if kind == "file" else ()

    @field_validator("licence")
    @classmethod
    def _stated(cls, value: str) -> str:
        return printable(value, "Write an SPDX identifier such as 'CC-BY-4.0', 'own' or 'unknown'")

    @field_validator("path")
    @classmethod
    def _one_line(cls, value: str | None) -> str | None:
        return None if value is None else printable(value, "Write the file's path inside the archive")

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            codecs.lookup(printable(value, "Write a text encoding such as 'utf-8'"))
        except LookupError as error:
            raise mistake(
                "", f"{value!r} is no known encoding", "Write 'utf-8', 'utf-16', 'shift_jis', 'cp1252', ..."
            ) from error
        return value
