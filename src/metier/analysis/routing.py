"""The routing analysis from its arguments to its findings: read the text, run every checkpoint, measure."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metier.analysis.checkpoints import compare, short_name
from metier.analysis.collect import Settings, collect
from metier.analysis.counts import DROP_RULES, GROUPS, Counts
from metier.analysis.findings import findings, layer_numbers
from metier.analysis.texts import named, read_texts
from metier.artifact import write_atomically, write_json, writing
from metier.errors import SpecError
from metier.model.loading import load_fast

LEAST_ROW = 8


class Examined(NamedTuple):
    """What was found of one model's routing."""

    found: dict[str, Any]
    """The findings, as JSON values."""
    counts: Counts
    """What they were made from."""


def examine(
    model: str,
    data: Sequence[str],
    *,
    checkpoints: Sequence[str] = (),
    row_tokens: int = 512,
    max_tokens: int = 50_000,
    layer: int | None = None,
    settings: Settings,
) -> Examined:
    """Return the findings on a model's routing over text, and the counts that they were made from.

    Args:
        model: a mixture of experts: a folder, or another reference that `metier.model.loading.load` takes.
        data: ``FILE`` or ``NAME=FILE``; the name is that of a domain, a language or a task.
        checkpoints: earlier checkpoints of the model, oldest first.
        row_tokens: length of the rows the text is cut into.
        max_tokens: most tokens read under one name.
        layer: number of the decoder layer that is shown in detail; by default the middle one of those with experts.
        settings: how the rows are run and drops are simulated.

    Raises:
        SpecError: when a number is out of range or nothing is to be read.
        DataError: when a text cannot be read or is empty.
        ArtifactError: when a model cannot be loaded, has no experts, or does not fit the others.
    """
    _check(data, row_tokens, max_tokens)
    loaded = load_fast(model)
    room = _positions(loaded.model)
    if room is not None and row_tokens > room:
        raise SpecError("--row", f"{row_tokens} tokens are more than the {room} positions of {model}", "Give less")
    texts = read_texts([named(argument) for argument in data], loaded.tokenizer, row_tokens, max_tokens)
    seen = collect(loaded.model, short_name(model), texts, settings)
    found = findings(short_name(model), seen, texts, loaded.tokenizer, settings, _index(layer, seen.watch.layers))
    if checkpoints:
        vocabulary = loaded.tokenizer.get_vocab()
        del loaded  # one model in memory at a time
        found["stability"] = compare(checkpoints, model, vocabulary, seen, texts, settings, found["too_little"])
    return Examined(found, seen.counts)


def settings(batch_rows: int, capacity_factor: float, group: str) -> Settings:
    """Return checked settings.

    Raises:
        SpecError: when one is out of range; it names the option of the command line.
    """
    if batch_rows < 1:
        raise SpecError("--batch", f"{batch_rows} rows are too few", "Write 1 or more")
    if not (math.isfinite(capacity_factor) and capacity_factor > 0):
        raise SpecError("--capacity", f"{capacity_factor} is no capacity factor", "Write 1.25 or 2.0, for example")
    if group not in GROUPS:
        raise SpecError("--group", f"there is no group {group!r}", f"Write {' or '.join(GROUPS)}")
    return Settings(batch_rows=batch_rows, capacity_factor=capacity_factor, group=group)


def write(folder: Path, examined: Examined) -> None:
    """Write ``routing.json``, ``routing.html`` and ``routing.npz`` into a folder.

    The last has the counts of `metier.analysis.counts.Counts` by name, and the names of texts, layers and drop rules.
    """
    from metier.analysis.page import page

    found, counts = examined
    html = page(found)
    arrays = {name: value for name, value in vars(counts).items() if isinstance(value, np.ndarray)}
    arrays |= {
        "ids_I": counts.sizes.ids_I,
        "texts": np.array([text["name"] for text in found["texts"]]),
        "layers": np.array(found["model"]["layers"]),
        "drop_rules": np.array(DROP_RULES),
    }
    with writing(folder / "routing.npz") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    write_json(folder / "routing.json", found)
    write_atomically(folder / "routing.html", html)


def _check(data: Sequence[str], row_tokens: int, max_tokens: int) -> None:
    if not data:
        raise SpecError("--data", "nothing to read", "Name text: --data NAME=FILE; it may be repeated")
    for option, value, least in (("--row", row_tokens, LEAST_ROW), ("--tokens", max_tokens, row_tokens)):
        if value < least:
            raise SpecError(option, f"{value} is too little", f"Write {least} or more")


def _index(layer: int | None, names: Sequence[str]) -> int | None:
    """Return which of the mixture layers a decoder layer's number stands for."""
    if layer is None:
        return None
    numbers = layer_numbers(names)
    if layer not in numbers:
        raise SpecError(
            "--layer", f"layer {layer} has no experts", f"Layers with experts: {', '.join(map(str, numbers))}"
        )
    return numbers.index(layer)


def _positions(model: Any) -> int | None:
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return room if isinstance(room, int) else None
