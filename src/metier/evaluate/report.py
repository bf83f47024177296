"""Verdict and candidates for people: on the terminal, and as Markdown for the model card."""

import re
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from metier.evaluate.calibration import Auroc
from metier.evaluate.candidates import Candidate
from metier.evaluate.confidence import Knowledge
from metier.evaluate.verdict import NOT_ASKED, Contestant, Gate, Verdict, rate_text

_LABELS = {"chrf2": "chrF2", "bleu": "BLEU", "exact": "exact %", "answer": "right %", "f1": "F1"}
_WAY = {
    "coverage": "known: answered",
    "right": "known: right of these",
    "withheld": "withheld: answered",
    "invented": "invented: answered",
    "wrong": "wrong of all answers",
}
"""Columns of the two ways of not answering, by the attributes of `Way`."""
_CONFIDENCE = ("threshold", "ECE before", "after", "AUROC known", "AUROC right", "AURC known", "AURC all")


def render(verdict: Verdict) -> RenderableType:
    """Return a table of the contestants, a line for each gate, and the verdict, for a rich console."""
    gates = (Text(f"{_mark(gate)}  {_gate_line(gate)}") for gate in verdict.gates)
    # good news and bad news look the same
    return Group(table(verdict.scores), Text(), *gates, Text(), Text(conclusion(verdict), style="bold"))


def table(scores: Sequence[Contestant]) -> Table:
    """Return the contestants' scores as a table."""
    return _table(_rows(scores))


def candidates_table(candidates: Sequence[Candidate], chosen: str | None) -> Table:
    """Return what was measured of the candidates as a table."""
    return _table(_candidate_rows(candidates, chosen))


def candidates_markdown(candidates: Sequence[Candidate], chosen: str | None) -> str:
    """Return the same as Markdown."""
    return "\n".join(_markdown_table(_candidate_rows(candidates, chosen)))


def knowledge_rows(knowledge: Sequence[Knowledge]) -> tuple[list[list[str]], list[list[str]]]:
    """Return two tables of cells, header first: both ways of not answering, and how good the confidence is."""
    ways = [["contestant", "says no", *_WAY.values()]]
    for one in knowledge:
        for label, way in (("in its own words", one.own), ("and by the threshold", one.sure)):
            ways.append([one.name, label, *(rate_text(getattr(way, name)) for name in _WAY)])
    sure = [["contestant", *_CONFIDENCE]]
    for one in knowledge:
        calibration = one.calibration
        sure.append(
            [
                one.name,
                f"{calibration.threshold:.3f}" if calibration.threshold <= 1 else "none keeps the risk",
                _share(one.before.error),
                _share(one.after.error),
                _area(one.known_or_not),
                _area(one.right_or_wrong),
                _share(one.known_curve.area),
                _share(one.all_curve.area),
            ]
        )
    return ways, sure


def knowledge_markdown(knowledge: Sequence[Knowledge]) -> str:
    """Return what the contestants know as Markdown: two tables and how they are to be read."""
    ways, sure = knowledge_rows(knowledge)
    lines = [
        *_markdown_table(ways),
        "",
        *_markdown_table(sure),
        "",
        "Known: questions whose answer training taught, in words that training never used. Withheld: about subjects "
        "that training never saw; invented: about subjects that are not. Brackets: 95% interval of Clopper and "
        "Pearson. The threshold is meant to keep wrong answers, and answers to what is unknown, at "
        f"{100 * knowledge[0].calibration.risk:g}% at most; any llama.cpp app has the file's own words alone. ECE: "
        "expected calibration error before and after "
        "calibration; AURC: area under the risk-coverage curve. `report.html` has the curves and answers to read.",
    ]
    return "\n".join(lines) + "\n"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _area(found: Auroc) -> str:
    return f"{_share(found.value)}, n = {found.positive} + {found.negative}"


def _table(cells: Sequence[Sequence[str]]) -> Table:
    header, *rows = cells
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for number, title in enumerate(header):
        shown.add_column(Text(title), justify="left" if number == 0 else "right", overflow="fold", no_wrap=number == 0)
    for row in rows:
        # Text, because names and intervals may look like rich's markup
        shown.add_row(*(Text(cell) for cell in row))
    return shown


def markdown(verdict: Verdict) -> str:
    """Return the same as Markdown, with the metrics' signatures."""
    lines = [*_markdown_table(_rows(verdict.scores)), ""]
    lines += [f"- **{_mark(gate).strip()}** {_cell(_gate_line(gate))}" for gate in verdict.gates]
    lines += ["", f"**{_cell(conclusion(verdict))}**", ""]
    signatures = {score.metric: score.signature for one in verdict.scores for score in one.scores}
    lines += [f"- {_label(metric)}: `{signature}`" for metric, signature in signatures.items()]
    lines += ["", "Brackets: 95% bootstrap percentile interval. n: rows of the exam."]
    return "\n".join(lines) + "\n"


def conclusion(verdict: Verdict) -> str:
    """Return 'released', or 'not released: because ...' with every reason."""
    if verdict.released:
        return "released"
    return "not released: because " + ("; ".join(verdict.reasons) or "no gate was examined")


def _rows(scores: Sequence[Contestant]) -> list[list[str]]:
    """Return the table's cells, header first; the first metric carries its interval."""
    metrics = list(dict.fromkeys(score.metric for one in scores for score in one.scores))
    titles = [_label(metric) + (" [low, high]" if metric == metrics[0] else "") for metric in metrics]
    rows = [["contestant", *titles, "n", "file MiB", "tokens/s"]]
    for one in scores:
        by_metric = {score.metric: score for score in one.scores}
        cells = []
        for metric in metrics:
            score = by_metric.get(metric)
            cell = "-" if score is None else f"{score.value:.1f}"
            if score is not None and metric == metrics[0]:
                cell += f" [{score.low:.1f}, {score.high:.1f}]"
            cells.append(cell)
        n = "-" if not one.scores else str(one.scores[0].n)
        rows.append([one.name, *cells, n, _number(one.file_mib), _number(one.tokens_per_s)])
    return rows


def _candidate_rows(candidates: Sequence[Candidate], chosen: str | None) -> list[list[str]]:
    metric = next((_label(one.score.metric) for one in candidates if one.score), "score")
    rows = [["file", f"{metric} [low, high]", "to the checkpoint", "MiB", "memory, MiB", "tokens/s", "gate"]]
    for one in sorted(candidates, key=lambda one: -one.file_mib):
        score, found = one.score, one.comparison
        gate = f"failed: {one.failed}" if one.failed else "passed" if one.passed else "not passed"
        if one.name == chosen:
            gate = "ships" if one.passed else "not passed, the best guess"
        rows.append(
            [
                one.name,
                f"{score.value:.1f} [{score.low:.1f}, {score.high:.1f}]" if score else "-",
                f"{found.difference:+.2f} [{found.low:+.2f}, {found.high:+.2f}]" if found else "-",
                f"{one.file_mib:.2f}",
                _number(one.ram_mib),
                _number(one.tokens_per_s),
                gate,
            ]
        )
    return rows


def _markdown_table(cells: Sequence[Sequence[str]]) -> list[str]:
    header, *rows = cells
    return [_line(header), _line(["---"] + ["---:"] * (len(header) - 1)), *map(_line, rows)]


def _label(metric: str) -> str:
    return _LABELS.get(metric, metric)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _mark(gate: Gate) -> str:
    return "pass" if gate.passed else "FAIL"


def _gate_line(gate: Gate) -> str:
    if gate.wanted == NOT_ASKED:
        return f"{gate.name}: {NOT_ASKED}; found {gate.found}"
    return f"{gate.name}: wanted {gate.wanted}; found {gate.found}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    """Keep a text on one line, inside its cell, and free of HTML."""
    one_line = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", one_line)
