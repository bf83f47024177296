"""What all tables of a job description have in common."""

import unicodedata

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


def mistake(key: str, found: str, fix: str) -> PydanticCustomError:
    """Return a mistake at a key (dotted, below the table being checked) for the loader to report."""
    return PydanticCustomError("mistake", "{found}. {fix}", {"key": key, "found": found, "fix": fix})


def printable(value: str, fix: str) -> str:
    """Return a text that is one visible line, or raise the mistake."""
    if not value.strip() or not is_one_line(value):
        raise mistake("", f"{value!r} is not one line of printable text", fix)
    return value


def is_one_line(text: str) -> bool:
    """Return whether all of a text can be printed; spaces of any width can, whatever `str.isprintable` says."""
    return all(char.isprintable() or unicodedata.category(char) == "Zs" for char in text)


class Strict(BaseModel):
    """Unknown keys and wrong types are errors; a description never changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
