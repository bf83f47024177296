"""The step ``files``: the models as GGUF files, each a candidate."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from metier.export.gguf import write_gguf
from metier.model.loading import load
from metier.spec.compress import WHOLE_MODEL, file_name
from metier.spec.job import Job
from metier.tasks.prompt import PromptFormat

WHOLE = WHOLE_MODEL.name
"""In place of a cut's name: the trained model itself."""
WALKED = "F16"
"""The type in which a model walks beside its checkpoint."""


class File(NamedTuple):
    """A file to be written and measured."""

    cut: str
    quantisation: str
    asked: bool
    """Whether it is a candidate; the others are for the walk alone."""

    @property
    def name(self) -> str:
        """The quantisation, after the name of the cut."""
        return file_name(self.cut, self.quantisation)


def files_of(job: Job, cut: str) -> Iterator[File]:
    """Yield the files of the whole model or of a cut, the one that walks first."""
    asked = job.export.quantisations
    for quantisation in dict.fromkeys([WALKED, *asked] if asked else []):
        yield File(cut, quantisation, quantisation in asked)


def gguf_path(folder: Path, job: Job, name: str) -> Path:
    """Return where the file of a name is."""
    return folder / f"{job.name}-{name}.gguf"


def write_files(
    job: Job, models: Mapping[str, Path], prompt: PromptFormat, licence: str, folder: Path
) -> dict[str, Any]:
    """Write the checkpoint and its cuts as GGUF in F16 and in every asked quantisation; return their sizes in MiB.

    Args:
        job: the job description.
        models: Hugging Face folders by name of the cut.
        prompt: the format that goes into the files' template.
        licence: terms of the model.
        folder: where the files go.
    """
    sizes = {}
    for cut, model_folder in models.items():
        wanted = list(files_of(job, cut))
        if not wanted:
            continue
        model, tokenizer = load(model_folder)
        for file in wanted:
            path = gguf_path(folder, job, file.name)
            write_gguf(
                path,
                model,
                tokenizer,
                file.quantisation,
                name=job.name,
                licence=licence,
                prompt=prompt,
                task=job.task_settings,
            )
            sizes[file.name] = path.stat().st_size / 2**20
    return {"file_mib": sizes}
