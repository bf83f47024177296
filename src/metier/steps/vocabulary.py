"""Part of the step ``start``: the job's own vocabulary, cut from the base's."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from metier.analysis.vocabulary import plot
from metier.artifact import write_atomically, write_json
from metier.compress.vocabulary import choice, measure
from metier.data.records import Record, each_record
from metier.errors import ArtifactError
from metier.model.rows import keep_rows
from metier.progress import say
from metier.spec.job import Job
from metier.tasks.prompt import PromptFormat
from metier.tasks.registry import task_from_json
from metier.tokenizer.chat import turn_of
from metier.tokenizer.learn import sentinel_ids
from metier.tokenizer.pieces import Pieces
from metier.tokenizer.read import pieces_of
from metier.tokenizer.sentencepiece import SentencePieces
from metier.tokenizer.trim import choose, count_tokens

_PROBE_ROWS = 100


def adopt(
    job: Job,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    train: Path,
    plain: Sequence[str],
    validation: Sequence[Record],
    sentinels: int,
    folder: Path,
) -> PreTrainedTokenizerFast:
    """Give the model the job's vocabulary; return its tokenizer, which cuts a text as llama.cpp will.

    It puts no space in front of a text: an answer is tokenized apart from its prompt, and would get one, too.

    Args:
        job: the job description.
        model: the base; its embedding is cut.
        tokenizer: the base's.
        train: the file of the rows to learn from, which are not all held in memory.
        plain: the texts to pretrain on.
        validation: rows held out from training, for measuring sizes.
        sentinels: how many of UL2's marks are needed.
        folder: where a measurement of sizes is left.
    """
    pieces = _with_rows(pieces_of(tokenizer), model)
    if isinstance(pieces, SentencePieces):
        pieces = replace(pieces, space_prefix=False)
    wanted = job.vocabulary.pieces
    if wanted != "all":
        whole = pieces.tokenizer()
        prompts = task_from_json(job.task_settings).prompts(turn_of(tokenizer))
        always = {*count_tokens(whole, [prompt.render("") for prompt in prompts]), *sentinel_ids(whole, sentinels)}
        counts = _counted(whole, prompts, train) + count_tokens(whole, plain)
        if wanted == "auto":
            wanted = _measured(job, model, pieces, counts, sorted(always), validation[:_PROBE_ROWS], folder)
        pieces, old = pieces.subset(choose(pieces, counts, wanted, always))
        keep_rows(model, old)
    adopted = pieces.tokenizer()
    adopted.chat_template = tokenizer.chat_template
    return adopted


def _counted(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[PromptFormat], train: Path) -> Counter[int]:
    """Count the pieces of the rows of a file as the prompts ask them, both sides alike.

    A word behind a space is another piece than in front, and a full stop before a line break may be one with it.
    """
    around = dict.fromkeys((prompt.before, prompt.after) for prompt in prompts)
    leads = dict.fromkeys(prompt.lead for prompt in prompts)
    asked, answered = Counter[int](), Counter[int]()
    for before, after in around:
        asked.update(count_tokens(tokenizer, (f"{before}{row.input}{after}" for row in each_record(train))))
    for lead in leads:
        answered.update(count_tokens(tokenizer, (f"{lead}{row.output}" for row in each_record(train))))
    return Counter({i: asked[i] * len(leads) + answered[i] * len(around) for i in asked | answered})


def _with_rows(pieces: Pieces, model: PreTrainedModel) -> Pieces:
    """Return the pieces that the embedding has rows for: Gemma 3 has one more, which stands for an image.

    Raises:
        ArtifactError: when one that a text needs has none.
    """
    matrix: Any = model.get_input_embeddings()
    rows = len(matrix.weight)
    if len(pieces) <= rows:
        return pieces
    for name in ("bos", "eos", "unk"):
        if (getattr(pieces, name) or 0) >= rows:
            found = f"its {name} piece is number {getattr(pieces, name)}, and its embedding has {rows} rows"
            raise ArtifactError("the base", found, "Fetch it again, or choose another base")
    return pieces.subset(range(rows))[0]


def _measured(
    job: Job,
    model: PreTrainedModel,
    pieces: Pieces,
    counts: Counter[int],
    always: Sequence[int],
    rows: Sequence[Record],
    folder: Path,
) -> int:
    """Measure the sizes of the ladder, leave a table and a plot, and return the pieces to ask for."""
    labelled = next(p for p in task_from_json(job.task_settings).prompts() if p.name == "labelled")
    sizes = measure(model, pieces, counts, always, rows, labelled, job.export.quantisations or ["F16"])
    chosen = choice(sizes, job.limits.file_mib if job.export.quantisations else None)
    for size in sizes:
        smallest = min(size.file_mib, key=size.file_mib.__getitem__)
        say(
            f"  {size.asked:7,} pieces asked for, {size.pieces:7,} kept: {size.nats_a_character:.3f} nats a character, "
            f"{size.input_tokens:.1f} + {size.output_tokens:.1f} tokens a row, {smallest} "
            f"{size.file_mib[smallest]:.0f} MiB{' <- chosen' if size is chosen else ''}"
        )
    write_json(
        folder / "vocabulary.json",
        {"rows": len(rows), "prompt": labelled.name, "chosen": chosen.asked, "sizes": [s.to_json() for s in sizes]},
    )
    write_atomically(folder / "vocabulary.svg", plot(sizes, chosen))
    return chosen.asked
