"""What ``metier run`` prints: the answer to one text, or to each line of files and of stdin."""

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from metier.artifact import printed_json
from metier.errors import DataError, InputError
from metier.run import shown
from metier.run.session import Session


def print_answer(session: Session, text: str, as_json: bool) -> None:
    """Print the answer to one text; of a job about facts how sure it is, too, and its source."""
    if session.asker is not None:
        answer = session.ask(text)
        typer.echo(shown.as_json(text, answer) if as_json else shown.paragraph(answer))
    else:
        typer.echo(_plain(text, session.answer(text), as_json))


def print_answers(session: Session, files: Sequence[Path], as_json: bool) -> None:
    """Print an answer for each line; where a line is refused an empty one, which line on stderr, and go on.

    Args:
        session: of the model that is asked.
        files: their lines, ``-`` being stdin; without any, those of stdin.
        as_json: whether each answer is a line of JSON.

    Raises:
        DataError: when a file cannot be read.
        SystemExit: after the last line, with the error's exit code, where any line was refused.
    """
    typed = _told_to_type(files)  # then no progress is shown, which would stand in the way
    refused = None
    for where, lines in _inputs(files):
        work: Callable[..., Iterator[tuple[str, Any]]] = session.ask_lines if session.asker else session.answer_lines
        show = _line_about_facts(files) if session.asker else _plain_line
        for number, (asked, answer) in enumerate(work(lines, quiet=typed), 1):
            if not isinstance(answer, InputError):
                typer.echo(show(asked, answer, as_json))
                continue
            refused = InputError(f"{where}, line {number}", answer.found, answer.fix)
            typer.echo(f"error: {refused}", err=True)
            none = {"input": asked, "output": None, "error": answer.found}
            typer.echo(printed_json(none) if as_json else "")
    if refused:
        raise SystemExit(refused.exit_code)


def _plain(asked: str, answered: str, as_json: bool) -> str:
    return printed_json({"input": asked, "output": answered}) if as_json else answered


def _plain_line(asked: str, answered: str, as_json: bool) -> str:
    return _plain(asked, answered if as_json else "\\n".join(answered.splitlines()), as_json)


def _line_about_facts(files: Sequence[Path]) -> Callable[[str, Any, bool], str]:
    """Return how answers about facts are shown: on a terminal as paragraphs, of files behind their questions."""

    def line(asked: str, answer: Any, as_json: bool) -> str:
        if as_json:
            return shown.as_json(asked, answer)
        if not sys.stdout.isatty():
            return shown.row(answer)
        return f"{asked}\n{shown.paragraph(answer)}\n" if files else shown.paragraph(answer)

    return line


def _told_to_type(files: Sequence[Path]) -> bool:
    """Return whether texts are typed, after saying how."""
    stdin = not files or any(map(_is_stdin, files))
    typed = stdin and sys.stdin is not None and sys.stdin.isatty()
    if typed:
        typer.echo("Type a text and Enter; Ctrl-D ends", err=True)
    return typed


def _is_stdin(file: Path) -> bool:
    return str(file) == "-"


def _inputs(files: Sequence[Path]) -> Iterator[tuple[str, Iterator[str]]]:
    """Yield the name and the lines of each file, or of stdin, without the mark that some editors begin a text with."""
    for file in files or [Path("-")]:
        if _is_stdin(file):
            yield from _stdin()
            continue
        try:
            lines = file.open(encoding="utf-8-sig", errors="replace")
        except OSError as error:
            found = f"cannot be read ({(error.strerror or str(error)).lower()})"
            raise DataError(str(file), found, "Name a text file you may read") from error
        with lines:
            yield str(file), lines


def _stdin() -> Iterator[tuple[str, Iterator[str]]]:
    if sys.stdin is None:  # closed by who called
        return
    try:  # not sys.stdin: a thread that waits in it would break Python's own end
        yield "stdin", open(sys.stdin.fileno(), encoding="utf-8-sig", errors="replace", closefd=False)  # noqa: SIM115
    except io.UnsupportedOperation:
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="replace")  # type: ignore[union-attr]
        yield "stdin", sys.stdin
