"""What comes of the job: exams, files, limits and release, as tables of the job description."""

import difflib

from pydantic import Field, field_validator

from metier.spec.contestants import BASE, model_reference
from metier.spec.quantisation import QUANTISATIONS, TYPES
from metier.spec.strict import Strict, mistake

VALIDATION_ROWS, TEST_ROWS = 1000, 500
"""Most rows of the exams, by default: of the one that a file is chosen by, and of the final one."""


class Evaluate(Strict):
    """How the model is examined."""

    test_rows: int = Field(TEST_ROWS, ge=20, description="Rows of the final exam, taken in hash order.")
    validation_rows: int = Field(
        VALIDATION_ROWS,
        ge=20,
        description="Validation rows that every file answers before one is chosen, at most. Whatever it says, a prompt "
        "is chosen on 64 of them, a vocabulary's size and a training's best weights on 100.",
    )
    max_answer_tokens: int = Field(128, ge=1, description="Maximum length of any contestant's answer, in tokens.")
    against: list[str] = Field(
        default_factory=list,
        description="Released models that sit the exam beside the base, each with the best prompt found for it: "
        "'hf:owner/name[@revision]', 'pypi:package[==version]', a folder or a .gguf file.",
    )

    @field_validator("against")
    @classmethod
    def _different_models(cls, value: list[str]) -> list[str]:
        for number, reference in enumerate(value):
            model_reference(reference, "Write 'hf:owner/name', 'pypi:package', a folder or a .gguf file")
            if reference == BASE:
                raise mistake("", "found 'base', which sits the exam anyway", "Remove it")
            if reference == "scratch":
                raise mistake("", "found 'scratch', which is no released model", "Remove it")
            if reference in value[:number]:
                raise mistake("", f"{reference!r} is named twice", "Name it once")
        return value


class Export(Strict):
    """What is shipped."""

    quantisations: list[str] = Field(
        default=["Q8_0", "Q5_1", "Q4_0"],
        description=f"GGUF types to try: {', '.join(TYPES)}, or 'Q4_0-embed-Q8_0' for an embedding and output of "
        "another type than the rest. Of those that pass the parity gate and the limits the smallest ships, or the "
        "fastest (compress.prefer). [] for no file, and so no release: the checkpoint is examined.",
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
                raise mistake("", f"found {name!r:.60}", fix)
        return value


class Limits(Strict):
    """What "anybody's machine" means for this job."""

    file_mib: float | None = Field(None, gt=0, description="Maximum size of the shipped file, in MiB.")
    ram_mib: float | None = Field(None, gt=0, description="Maximum resident memory while answering, in MiB.")


class Release(Strict):
    """The gate between a build and a release."""

    must_beat: list[str] = Field(
        default=[BASE],
        description="Contestants to beat with p < 0.05: 'base', or models of evaluate.against, written as there; empty "
        "for none.",
    )
    parity_margin: float = Field(
        0.5,
        gt=0,
        description="Points of the job's own metric that the file may lose against the checkpoint, by the 95% bound: "
        "chrF2 of a translation, percent of right answers of facts.",
    )
