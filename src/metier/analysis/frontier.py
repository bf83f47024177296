"""The candidates of a sweep as a plot: score against size, with what passes and what is chosen."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from metier.analysis.svg import COLOURS, GREY, INK, standalone
from metier.evaluate.sweep import Candidate, frontier


def draw_frontier(candidates: Sequence[Candidate], chosen: Candidate, checkpoint: float, margin: float) -> str:
    """Return an SVG file: a point for each candidate that answered, with the 95% interval of its score.

    Filled points passed the gate; the ring is round the one that is chosen; the line joins those that score better
    than every smaller one.

    Args:
        candidates: all of them.
        chosen: the one that ships.
        checkpoint: the score of the whole model's checkpoint.
        margin: how much less may ship, in points.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axhline(checkpoint, color=INK, linewidth=1, label="checkpoint")
        axes.axhline(checkpoint - margin, color=GREY, linewidth=1, linestyle="--", label=f"checkpoint - {margin:g}")
        best = frontier(candidates)
        axes.step(*_points(best), where="post", color=COLOURS[0], linewidth=1.2, label="best of its size or smaller")
        for passed, filled, label in ((True, COLOURS[0], "passed"), (False, "white", "not passed")):
            some = [one for one in candidates if one.score and one.passed is passed]
            sizes, values = _points(some)
            errors = [
                [one.score.value - one.score.low for one in some if one.score],
                [one.score.high - one.score.value for one in some if one.score],
            ]
            axes.errorbar(sizes, values, errors, fmt="none", ecolor=GREY, elinewidth=0.8)
            axes.plot(sizes, values, "o", color=COLOURS[0], markerfacecolor=filled, label=label)
            for one, size, value in zip(some, sizes, values, strict=True):
                axes.annotate(one.name, (size, value), (5, 4), textcoords="offset points", fontsize=7)
        axes.plot(*_points([chosen]), "o", color=COLOURS[1], markersize=13, markerfacecolor="none", label="chosen")
        metric = chosen.score.metric if chosen.score else "score"
        axes.set(xlabel="file, MiB", ylabel=f"{metric} on validation rows")
        axes.legend(ncols=6, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8)

    return standalone(draw, 4.5)


def _points(some: Sequence[Candidate]) -> tuple[list[float], list[float]]:
    measured = [(one.file_mib, one.score.value) for one in some if one.score]
    return [size for size, _ in measured], [value for _, value in measured]
