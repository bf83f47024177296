"""The job description as typed, validated objects: units in names, every field explained.

The descriptions below become the JSON schema that editors use (``metier schema``).
"""

import difflib
from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from metier.spec.base import Base, Vocabulary
from metier.spec.compress import Compress
from metier.spec.contestants import BASE, short_names
from metier.spec.data import AnySource, Data
from metier.spec.facts import FactSource
from metier.spec.outcome import Evaluate, Export, Limits, Release
from metier.spec.quantisation import Quantisation
from metier.spec.strict import Strict, mistake
from metier.spec.task import Qa, Text2Text, Translation
from metier.spec.training import OF_OPENMOE, Losses, Pretrain, Train

_OF_EXPERTS = (
    *(("train", "freeze_router_after"), ("pretrain", "freeze_router_after")),
    *(("losses", "load_balance"), ("losses", "router_z"), ("compress", "experts")),
)
"""Tables and keys that mean nothing without experts."""


class Job(Strict):
    """One job: what it is, what it learns from, what it must achieve."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$",
        description="Lower-case letters, digits, '.', '_' and '-'; also the run folder's name.",
    )
    task: Literal["translation", "text2text", "qa"] = Field(
        description="'translation' between two languages, 'qa' for questions about facts, or 'text2text' for any other "
        "input and output."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of everything random.")
    translation: Translation | None = Field(None, description="For task 'translation': the languages.")
    text2text: Text2Text = Field(Text2Text(), description="For task 'text2text': names of the two sides.")
    qa: Qa = Field(Qa(), description="For task 'qa': what is asked, and what is done about what is not known.")
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
        if self.task == "qa":
            return {"task": self.task, "unknown": self.qa.unknown}
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

    @property
    def start_settings(self) -> dict[str, Any]:
        """What the untrained model depends on, beside its rows and what they make necessary: a part of its key."""
        settings: dict[str, Any] = {
            "base": self.base.weights,
            "vocabulary": self.kept_pieces,
            "task": self.task_settings,
        }
        if not self.base.from_scratch and self.vocabulary.pieces != "all":
            settings["counted"] = "as asked"  # pieces were counted outside their prompts before
        return settings

    @property
    def row_settings(self) -> dict[str, Any]:
        """What the rows depend on beside their sources: a part of their key."""
        shared = {"split": self.data.split.model_dump(), "seed": self.seed}
        if self.task == "qa":
            return shared | {"qa": self.qa.model_dump(mode="json", exclude={"risk"})}
        return shared | {"cleaning": self.data.cleaning.model_dump()}

    @property
    def sources(self) -> dict[str, Sequence[AnySource | FactSource]]:
        """The sources of the rows by their role in the rows' key, which knows of plain text where there is some."""
        rows: dict[str, Sequence[AnySource | FactSource]] = {"train": self.data.train, "test": self.data.test}
        facts: dict[str, Sequence[AnySource | FactSource]] = {"facts": self.data.facts}
        text: dict[str, Sequence[AnySource | FactSource]] = {"text": self.data.text} if self.data.text else {}
        return (facts if self.task == "qa" else rows) | text

    @property
    def rivals(self) -> dict[str, str]:
        """The models of ``evaluate.against`` by the names that reports call them."""
        return short_names(self.evaluate.against, self.name)

    @model_validator(mode="after")
    def _task_and_its_table(self) -> Self:
        stated = self.model_fields_set
        if self.task == "translation" and self.translation is None:
            fix = "Write a [translation] table with 'source' and 'target'"
            raise mistake("translation", "missing, and task 'translation' needs it", fix)
        if self.task != "translation" and self.translation is not None:
            raise mistake("translation", f"does not fit task {self.task!r}", "Remove the table")
        for table in ("text2text", "qa"):
            if self.task != table and table in stated:
                raise mistake(table, f"does not fit task {self.task!r}", "Remove the table")
        if self.task != "translation" and self.train.joined_share:
            raise mistake("train.joined_share", f"does not fit task {self.task!r}", "Remove the key")
        return self

    @model_validator(mode="after")
    def _rows_or_facts(self) -> Self:
        wanted, other = ("facts", "train") if self.task == "qa" else ("train", "facts")
        if not getattr(self.data, wanted):
            fix = f"Write [[data.{wanted}]] tables"
            raise mistake(f"data.{wanted}", f"missing, and task {self.task!r} learns from it", fix)
        for key in (other, *(("test",) if self.task == "qa" else ())):
            if getattr(self.data, key):
                raise mistake(f"data.{key}", f"does not fit task {self.task!r}", "Remove the tables")
        return self

    @model_validator(mode="after")
    def _what_a_base_has(self) -> Self:
        stated = self.model_fields_set
        if self.base.from_scratch and "vocabulary" in stated:
            fix = "Remove the table, write base.vocabulary for the number of pieces to learn"
            raise mistake("vocabulary", "a model from scratch has no vocabulary to cut", fix)
        if self.base.from_scratch and BASE in self.release.must_beat:
            fix = "Write must_beat = [] under [release], or models of evaluate.against"
            raise mistake("release.must_beat", "a model from scratch has no base to beat", fix)
        if self.base.from_scratch and self.train.lora and not self.pretrain:
            fix = "Remove the table, or let the model learn from plain text first: write [pretrain]"
            raise mistake("train.lora", "the frozen weights would be random ones", fix)
        return self

    @model_validator(mode="after")
    def _contestants(self) -> Self:
        against = self.evaluate.against
        if self.base.model in against:
            found = f"{self.base.model!r} is the base, which sits the exam anyway"
            raise mistake("evaluate.against", found, "Remove it; in must_beat it is 'base'")
        for name in self.release.must_beat:
            if name not in (BASE, *against):
                known = {BASE: BASE, **{one: one for one in against}, **self.rivals}
                near = difflib.get_close_matches(name, known, n=1)
                fix = f"Did you mean {known[near[0]]!r}?" if near else "Add it to evaluate.against, or write 'base'"
                raise mistake("release.must_beat", f"{name!r} is no contestant", fix)
        return self

    @model_validator(mode="after")
    def _experts(self) -> Self:
        for table, key in _OF_EXPERTS if self.base.from_scratch and self.base.architecture == "dense" else ():
            if key in getattr(getattr(self, table), "model_fields_set", ()):
                raise mistake(f"{table}.{key}", "a dense model has no experts", "Remove the key")
        return self

    @model_validator(mode="after")
    def _openmoe(self) -> Self:
        if not self.base.from_scratch or self.base.architecture == "openmoe":
            return self
        for settings in filter(None, (self.train, self.pretrain)):
            for key in OF_OPENMOE:
                if key in settings.model_fields_set:
                    found = f"does not fit architecture {self.base.architecture!r}"
                    raise mistake(settings.key(key), found, "Remove the key, it is for architecture = 'openmoe'")
        return self

    @model_validator(mode="after")
    def _text_and_exam(self) -> Self:
        if self.pretrain and not self.data.text:
            raise mistake("data.text", "missing, and [pretrain] learns from it", "Write [[data.text]] tables")
        if self.data.text and not self.pretrain:
            raise mistake("data.text", "is learned from by [pretrain] alone", "Write a [pretrain] table, too")
        if self.data.test and "test_share" in self.data.split.model_fields_set:
            fix = "Remove test_share, the exam comes from [[data.test]]"
            raise mistake("data.split.test_share", "does not fit [[data.test]]", fix)
        return self

    @model_validator(mode="after")
    def _files_and_cuts(self) -> Self:
        bodies = [Quantisation.of(name).body for name in self.export.quantisations]
        if self.train.quantisation and self.train.quantisation not in bodies:
            fix = f"Add '{self.train.quantisation}' to export.quantisations"
            raise mistake("train.quantisation", "weights are rounded to a type that no file will have", fix)
        if self.base.architecture == "openmoe" and self.export.quantisations:
            found = "a model of architecture 'openmoe' cannot be written as GGUF"
            fix = "Write quantisations = [] to end with a checkpoint, which is not released; or architecture = 'moe'"
            raise mistake("export.quantisations", found, fix)
        if self.compress.cuts and not self.export.quantisations:
            fix = "Remove the lists, or ask for a file"
            raise mistake("compress", "smaller models are made to be written as files, and none is asked for", fix)
        return self
