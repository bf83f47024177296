"""The tasks there are, by name."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from metier.errors import ArtifactError
from metier.tasks.qa import Qa
from metier.tasks.text2text import Text2Text
from metier.tasks.translation import Translation

Task = Translation | Text2Text | Qa
"""What a job can be: the same name, metrics, prompts, split and join for each."""

TASKS: dict[str, type[Translation] | type[Text2Text] | type[Qa]] = {
    Translation.name: Translation,
    Text2Text.name: Text2Text,
    Qa.name: Qa,
}


def task_from_json(value: Any) -> Task:
    """Read the ``task_settings`` of a job description, or what a file says of its task.

    Args:
        value: such as ``{"task": "translation", "source": "ja", "target": "en"}``.

    Raises:
        ArtifactError: when no task of this version reads like that.
    """
    settings = dict(value) if isinstance(value, Mapping) else {}
    kind = TASKS.get(str(settings.pop("task", None)))
    if (
        kind is None
        or set(settings) != {field.name for field in fields(kind)}
        or not all(isinstance(setting, str) for setting in settings.values())
    ):
        raise ArtifactError(
            "task",
            f"{str(value)!r:.200} is none of the tasks of this version ({', '.join(TASKS)})",
            "Use the version of metier that wrote it",
        )
    return kind(**settings)
