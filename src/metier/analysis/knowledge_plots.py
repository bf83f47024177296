"""The plots of what contestants know; each fills a figure."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from metier.analysis.svg import COLOURS, GREY, Findings, cut, percent
from metier.evaluate.calibration import Rate, Reliability
from metier.evaluate.confidence import Group, Knowledge, Way

MOST_BARS = 40
"""So many groups have a bar; of more, the largest."""


def risk_coverage(figure: Figure, found: Findings) -> None:
    """Draw the risk-coverage curves of all contestants, with what is answered in their own words and by threshold."""
    everybody: Sequence[Knowledge] = found["knowledge"]
    panels: Sequence[Axes] = figure.subplots(1, 2, sharey=True)
    for axes, title in zip(panels, ("known questions", "all questions of the exam"), strict=True):
        for number, one in enumerate(everybody):
            curve = one.known_curve if axes is panels[0] else one.all_curve
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(curve.coverage, curve.risk, color=colour, label=cut(one.name, 40))
            for way, mark in ((one.own, "s"), (one.sure, "o")):
                at = _point(way, known=axes is panels[0])
                if at:
                    axes.plot(*at, mark, color=colour, markersize=6, markeredgecolor="white")
        axes.axhline(everybody[0].calibration.risk, color=COLOURS[5], linewidth=1, linestyle="--")
        axes.set_title(title, fontsize=9, loc="left")
        axes.set(xlabel="share of the questions answered, surest first", xlim=(0, 1.02))
        axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
        percent(axes)
    panels[0].set(ylabel="wrong among the answered")
    panels[0].set_ylim(bottom=0)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)


def reliability(figure: Figure, found: Findings) -> None:
    """Draw how often the shipped file's answers are right by how sure it is, before and after calibration."""
    one: Knowledge = found["knowledge"][0]
    panels: Sequence[Axes] = figure.subplots(1, 2, sharey=True)
    seen: Sequence[tuple[str, Reliability]] = (("the model's own probability", one.before), ("calibrated", one.after))
    for axes, (title, measured) in zip(panels, seen, strict=True):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
        axes.errorbar(
            [each.mean for each in measured.bins],
            [each.right.share or 0.0 for each in measured.bins],
            _errors([each.right for each in measured.bins]),
            fmt="o",
            color=COLOURS[0],
            markersize=4,
            elinewidth=1,
        )
        if one.calibration.threshold <= 1 and measured is one.after:
            axes.axvline(one.calibration.threshold, color=COLOURS[5], linewidth=1, linestyle="--")
        error = "" if measured.error is None else f": off by {measured.error:.1%}"
        axes.set_title(f"{title}{error}", fontsize=9, loc="left")
        axes.set(xlabel="confidence", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
        percent(axes)
    panels[0].set(ylabel="share that is right")


def shown_groups(groups: Sequence[Group]) -> list[Group]:
    """Return the groups that have a bar, in their order."""
    largest = sorted(groups, key=lambda group: -group.right.n)[:MOST_BARS]
    return [group for group in groups if group in largest]


def errors(figure: Figure, found: Findings) -> None:
    """Draw, for each group of known questions, the share that is not answered rightly, as bars with intervals and n."""
    groups = shown_groups(found["groups"])
    axes = figure.add_subplot()
    places = range(len(groups))
    wrong = [1 - (group.right.share or 0.0) for group in groups]
    low, high = _errors([group.right for group in groups])
    axes.barh(places, wrong, color=COLOURS[0], alpha=0.55, height=0.7)
    axes.errorbar(wrong, places, xerr=[high, low], fmt="none", ecolor=COLOURS[0], elinewidth=1, capsize=2)
    axes.set_yticks(places, [f"{cut(group.name, 36)}  (n = {group.right.n})" for group in groups])
    axes.invert_yaxis()
    top = max(1 - group.right.low for group in groups)
    axes.set(xlabel="not answered rightly", xlim=(0, min(1.0, 1.05 * top)))
    axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.grid(axis="x", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)


def _errors(rates: Sequence[Rate]) -> tuple[list[float], list[float]]:
    """Return how far the intervals reach below and above the shares."""
    below = [max((rate.share or 0.0) - rate.low, 0.0) for rate in rates]
    return below, [max(rate.high - (rate.share or 0.0), 0.0) for rate in rates]


def _point(way: Way, *, known: bool) -> tuple[float, float] | None:
    """Return where a way of not answering is on the curve; None where nothing is answered."""
    answered, questions = way.coverage.count, way.coverage.n
    if known:
        risk = None if way.right.share is None else 1 - way.right.share
    else:
        answered, questions, risk = answered + way.unknown.count, questions + way.unknown.n, way.wrong.share
    return None if risk is None else (answered / questions, risk)
