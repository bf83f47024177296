"""What all tables of a job description have in common."""

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


def mistake(key: str, found: str, fix: str) -> PydanticCustomError:
    """Return a mistake at a key (dotted, below the table being checked) for the loader to report."""
    return PydanticCustomError("mistake", "{found}. {fix}", {"key": key, "found": found, "fix": fix})


def printable(value: str, fix: str) -> str:
    """Return a text that is one visible line, or raise the mistake."""
    if not value.strip() or not value.isprintable():
        raise mistake("", f"{value!r} is not one line of printable text", fix)
    return value


class Strict(BaseModel):
    """Unknown keys and wrong types are errors; a description never changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
