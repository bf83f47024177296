"""What the user sees while something takes time must not touch the result on stdout."""

import io
import sys

from rich.console import Console

from metier import progress


def test_stdout_stays_the_result_while_a_bar_is_shown_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "console", Console(file=io.StringIO(), force_terminal=True))
    out = sys.stdout
    for number in progress.track(range(2), "answering"):
        assert sys.stdout is out
        sys.stdout.write(f"answer {number}\n")
    assert capsys.readouterr().out == "answer 0\nanswer 1\n"


def test_talk_goes_to_stderr_as_it_is(capfd):
    assert progress.console.stderr
    progress.say("[red]x[/red] [0, 1]")
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "[red]x[/red] [0, 1]\n")


def test_nothing_is_drawn_where_there_is_no_terminal(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=file, force_terminal=False))
    assert list(progress.track(range(3), "answering")) == [0, 1, 2]
    assert file.getvalue() == ""
