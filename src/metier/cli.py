"""The command line: one verb a step; parse, call, print. Nothing heavy is imported before a verb needs it."""

import errno
import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from metier import __version__
from metier.errors import FREE_SPACE, FULL, MetierError, RunError, SpecError
from metier.home import home

if TYPE_CHECKING:
    from metier.evaluate.verdict import Verdict

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Build a small language model for one job, compare it with general models, and run it offline.",
)

JobPath = Annotated[Path, typer.Argument(help="A job description: job.toml, or the folder that holds it.")]
Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]

Nproc = Annotated[int, typer.Option(min=1, help="Number of training processes on this machine.")]

NOT_GOOD_ENOUGH = 1
"""Exit code of a result, not an error: a build not released, a plan that does not fit, a sweep of which nothing ships.
"""

_LATER = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "matplotlib", "jinja2")
"""What a build imports on its way, when its data is there or its model trained."""

_INTERRUPTED = 130
_REFUSALS = (*FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST)
"""What a disk says when the user can mend it; any other OSError is a bug of ours."""
_OTHER_PATH = {
    errno.ENAMETOOLONG: "Choose a shorter path",
    errno.ENOTDIR: "Choose another path: a part of this one is a file",
    errno.EEXIST: "Choose another path: something is there already",
}

_WRONG_USAGE = 2
_TEXT_LIKE_AN_OPTION = re.compile(r"-[^-f].*|-.*\s.*", re.DOTALL)
"""An argument that is rather a text than an option of ``metier run``."""


@app.callback(invoke_without_command=True)
def _metier(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    if version:
        typer.echo(f"metier {__version__}")
        raise typer.Exit


@app.command()
def new(
    name: Annotated[
        str, typer.Argument(help="Name of the job, created in jobs/NAME; 'de-fr' sets a translation's languages.")
    ],
    task: Annotated[str, typer.Option(help="translation, text2text or qa.")],
    examples: Annotated[
        Path | None, typer.Option(help="A csv, tsv or jsonl file: inputs and outputs, or facts.")
    ] = None,
) -> None:
    """Write a commented job description to edit."""
    with _workshop():
        from metier.data.fit import study
        from metier.spec.new import new_job

        written = new_job(name, task, examples, Path("jobs") / name, study)
    typer.echo(written)


@app.command()
def schema() -> None:
    """Print the JSON schema of job descriptions, for editors."""
    with _workshop():
        from metier.spec.load import json_schema
    _print_json(json_schema(), indent=1)


@app.command()
def plan(job: JobPath, as_json: Json = False) -> None:
    """Estimate what will fit and what to expect, before any download or training. Exit code 1: it does not fit."""
    with _workshop():
        from metier.data.local_text import text_bytes
        from metier.spec.advice import load_evidence
        from metier.spec.knowledge import read_taught
        from metier.spec.load import load_job
        from metier.spec.machine import this_machine
        from metier.spec.plan import make_plan
        from metier.spec.released import known_weights
    description = load_job(job)
    known, taught = known_weights(description), read_taught(description)
    found = make_plan(description, known, this_machine(), load_evidence(), taught, text_bytes)
    if as_json:
        _print_json(found.to_json())
    else:
        from rich.console import Console

        from metier.spec.plan_table import render

        Console(highlight=False).print(render(found, description))
    if found.fits is False:
        raise typer.Exit(NOT_GOOD_ENOUGH)


@app.command()
def build(job: JobPath, nproc: Nproc = 1, as_json: Json = False) -> None:
    """Run the whole pipeline: data, training, evaluation, export. Finished steps are kept. Exit code 1: no release."""
    with _workshop(*_LATER):
        from metier.build import build as build_job
        from metier.spec.load import load_job
    from metier.home import run_dir
    from metier.progress import say

    description = load_job(job)
    run = run_dir(description.name)
    say(f"run folder: {run}")
    verdict = build_job(description, run, nproc)
    if as_json:
        _print_json(verdict.to_json())
    else:
        _print_verdict(verdict)
        report = " report.html on what it knows," if (run / "export" / "report.html").exists() else ""
        say(f"\nIn {run / 'export'}: the model, its card,{report} ledger and checksums.")
    if not verdict.released:
        raise typer.Exit(NOT_GOOD_ENOUGH)


@app.command()
def compress(job: JobPath, nproc: Nproc = 1, as_json: Json = False) -> None:
    """Build a job up to its model files and compare them. Exit code 1: none passes and fits."""
    with _workshop(*_LATER):
        from metier.build import sweep
        from metier.evaluate.candidates import Candidate
        from metier.evaluate.report import candidates_table
        from metier.spec.load import load_job
    from rich.console import Console

    from metier.home import run_dir
    from metier.progress import say

    description = load_job(job)
    run = run_dir(description.name)
    found = sweep(description, run, nproc)
    candidates = {name: Candidate.from_json(one) for name, one in found["candidates"].items()}
    if as_json:
        _print_json(found)
    elif candidates:
        Console(highlight=False).print(candidates_table(list(candidates.values()), found["chosen"]))
        say(f"\nIn {run}: sweep.json with the numbers, sweep.svg to look at.")
    else:
        say("No file is asked for: export.quantisations is empty.")
    chosen = candidates.get(found["chosen"])
    if chosen is None or not (chosen.passed and chosen.fits(**description.limits.model_dump())):
        raise typer.Exit(NOT_GOOD_ENOUGH)


@app.command()
def verdict(job: JobPath, as_json: Json = False) -> None:
    """Print the verdict of a finished build again."""
    with _workshop():
        from metier.evaluate.verdict import Verdict
        from metier.spec.load import load_job
    from metier.artifact import load_step, read_json
    from metier.home import run_dir

    found = read_json(load_step(run_dir(load_job(job).name) / "export").folder / "verdict.json")
    if as_json:
        _print_json(found)
    else:
        _print_verdict(Verdict.from_json(found))


@app.command()
def evaluate(
    job: JobPath,
    on: Annotated[str, typer.Option(help="The rows: a tsv, csv or jsonl file, or 'A,B' for two line-aligned files.")],
    columns: Annotated[str, typer.Option(help="Input and output columns: 'A,B', by name or number from 1.")] = "1,2",
    rows: Annotated[int, typer.Option(min=2, help="Evaluate on the first N rows.")] = 100,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Recorded answers of another system, one line per row; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate the released file, its base and its rivals on your own rows, beside answers of other systems."""
    with _workshop():
        from metier.evaluate.report import table
        from metier.evaluate.verdict import difference_text
        from metier.spec.load import load_job
        from metier.steps.outside import examine_outside
    from dataclasses import asdict

    from rich.console import Console

    from metier.home import run_dir

    description = load_job(job)
    found = examine_outside(description, run_dir(description.name), on, rows, against or (), columns)
    if as_json:
        _print_json(asdict(found))
        return
    Console(highlight=False).print(table(found.contestants))
    for name, comparison in found.comparisons.items():
        typer.echo(f"difference to {name}: {difference_text(comparison)}")
    typer.echo(f"{found.leaks} of {found.rows} rows are given away by the training text")


@app.command()
def run(
    model: Annotated[str, typer.Argument(help="A job's name, a run or export folder, or a .gguf file.")],
    text: Annotated[
        str | None,
        typer.Argument(help="The input; '-' or nothing reads stdin. Text that begins with '-' goes after '--'."),
    ] = None,
    file: Annotated[
        list[Path] | None, typer.Option("--file", "-f", help="Answer a text file, or stdin ('-'); may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer offline: one text, or stdin or files line by line. A qa job says how sure it is, and names its source."""
    from metier.run.printed import print_answer, print_answers
    from metier.run.session import open_session

    if text is not None and file:
        raise SpecError("metier run", f"an input ({text!r:.40}) and --file", "Give one of the two")
    with open_session(model) as session:
        if text is not None and text != "-":
            print_answer(session, text, as_json)
        else:
            print_answers(session, file or [], as_json)


@app.command()
def routing(
    model: Annotated[str, typer.Argument(help="A mixture of experts: a folder, or 'hf:owner/name'.")],
    data: Annotated[
        list[str], typer.Option(help="Text: FILE or NAME=FILE (txt, jsonl, tsv, csv; FILE#COLUMN); may be repeated.")
    ],
    checkpoints: Annotated[
        list[str] | None,
        typer.Option(help="An earlier checkpoint of the model; may be repeated, oldest first."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write routing.html, .json and .npz to this folder.")] = None,
    tokens: Annotated[int, typer.Option(help="Maximum tokens read per source.")] = 50_000,
    row: Annotated[int, typer.Option(help="Length of the rows that the text is cut into, in tokens.")] = 512,
    batch: Annotated[int, typer.Option(help="Rows per batch.")] = 8,
    layer: Annotated[int | None, typer.Option(help="The layer to show in detail; by default the middle one.")] = None,
    capacity: Annotated[float, typer.Option(help="Capacity factor of the simulated drops.")] = 2.0,
    group: Annotated[
        str, typer.Option(help="Tokens that compete for capacity: those of a 'sequence' or a 'batch'.")
    ] = "sequence",
    as_json: Json = False,
) -> None:
    """Show how a mixture of experts uses its experts: by text, position and token id, with drops and checkpoints."""
    with _workshop():
        from metier.analysis.routing import examine, settings, write
        from metier.analysis.table import table
    from rich.console import Console

    from metier.progress import say

    examined = examine(
        model,
        data,
        checkpoints=checkpoints or (),
        row_tokens=row,
        max_tokens=tokens,
        layer=layer,
        settings=settings(batch, capacity, group),
    )
    if out is not None:
        write(out, examined)
    if as_json:
        _print_json(examined.found)
    else:
        Console(highlight=False).print(table(examined.found))
    if out is not None:
        say(f"\nIn {out}: routing.html to look at, routing.json with the numbers, routing.npz with the counts.")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A folder with an OpenMoE checkpoint, in any published layout.")],
    target: Annotated[Path, typer.Argument(help="A new folder.")],
    dtype: Annotated[str, typer.Option(help="float32, float16, bfloat16 or int8.")] = "bfloat16",
    as_json: Json = False,
) -> None:
    """Convert an OpenMoE checkpoint to safetensors piece by piece: memory use stays small, whatever its size."""
    with _workshop():
        from metier.model.openmoe.convert import convert_checkpoint
    folder = convert_checkpoint(source, target, dtype)
    if as_json:
        _print_json({"folder": str(folder), "dtype": dtype})
    else:
        typer.echo(folder)


def main() -> None:
    """Run the command line; every error a user can meet is one line on stderr and an exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # where a terminal lacks letters
    arguments, debug = _without_debug(sys.argv[1:])
    try:
        app(arguments)
    except MetierError as error:
        if debug:
            raise
        _fail(error)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            typer.echo("\nstopped; run the same command to go on", err=True)
        if end.code == _WRONG_USAGE and arguments[:1] == ["run"]:
            _tell_of_dashes(arguments)
        raise
    except OSError as error:
        if debug or error.errno not in _REFUSALS:
            raise
        where = str(error.filename or home())
        _fail(RunError(where, (error.strerror or str(error)).lower(), _mend(error.errno, Path(where))))


def _tell_of_dashes(arguments: list[str]) -> None:
    """Say how a text is written that was taken for an option, where there is one."""
    if "--" not in arguments and any(map(_TEXT_LIKE_AN_OPTION.fullmatch, arguments)):
        typer.echo('Put text that begins with "-" after "--": metier run MODEL -- "-5 degrees"', err=True)


def _mend(code: int | None, path: Path) -> str:
    """Return what to do about what a disk says of a path."""
    if code in FULL or _is_of_home(path):
        return FREE_SPACE
    return _OTHER_PATH.get(code or 0, "Choose a path that you may read and write")


def _is_of_home(path: Path) -> bool:
    """Whether a path is below METIER_HOME, or a folder that this is to be made in."""
    whole = path.absolute()
    return whole.is_relative_to(home()) or home().is_relative_to(whole)


def _without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """Take --debug out of the arguments, wherever it stands before a "--": it serves every verb."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != "--debug"]
    return options + arguments[end:], len(options) < end


def _fail(error: MetierError) -> NoReturn:
    typer.echo(f"error: {error}", err=True)
    raise SystemExit(error.exit_code)


def _print_verdict(verdict: "Verdict") -> None:
    from rich.console import Console

    from metier.evaluate.report import render

    Console(highlight=False).print(render(verdict))


def _print_json(value: Any, indent: int | None = None) -> None:
    from metier.artifact import printed_json

    typer.echo(printed_json(value, indent))


@contextmanager
def _workshop(*later: str) -> Iterator[None]:
    """Say what to install when the workshop's libraries are missing: those imported in the block, or later by name."""
    try:
        for name in later:
            if find_spec(name) is None:
                raise ModuleNotFoundError(name=name)
        yield
    except ModuleNotFoundError as error:
        raise RunError(
            "this command",
            f"needs the workshop, and {error.name} is not installed",
            "Install torch first (see the README), then: pip install '.[build]' in the clone",
        ) from error


if __name__ == "__main__":
    main()
