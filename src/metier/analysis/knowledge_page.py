"""What contestants know as one HTML page that needs nothing from outside: plots, tables, and answers to read."""

from collections.abc import Sequence

from markupsafe import Markup

from metier.analysis import knowledge_plots as plots
from metier.analysis.page import Section, filled
from metier.analysis.svg import drawn
from metier.evaluate.confidence import Group, Knowledge
from metier.evaluate.report import knowledge_rows
from metier.evaluate.verdict import rate_text


def page(job: str, knowledge: Sequence[Knowledge]) -> str:
    """Return the HTML page of what contestants know; text from questions, answers and names is escaped.

    Args:
        job: the job's name.
        knowledge: of each contestant, the shipped file's first.
    """
    ways, sure = knowledge_rows(knowledge)
    return filled(
        "knowledge.html",
        job=job,
        ours=knowledge[0],
        tables=[ways, sure],
        sections=sections(knowledge),
        threshold=_threshold(knowledge[0]),
        rate=rate_text,
    )


def sections(knowledge: Sequence[Knowledge]) -> list[Section]:
    """Return the plots with what is to be seen in them."""
    found, ours = {"knowledge": knowledge}, knowledge[0]
    risk, coverage = ours.calibration.risk, Markup(drawn(plots.risk_coverage, found, 3.6))  # noqa: S704
    made = [
        Section(
            "Risk and coverage",
            coverage,
            "Each curve: if only the surest answers are given, how many of them are wrong. Lower is better, and a "
            "curve that stays low far to the right knows what it knows. Squares: own words for not knowing; "
            f"dots: its threshold on top. Dashed: the risk of {100 * risk:g}% that the job allows. Questions without "
            "an answer are in the right panel only, where nearly every answer to one is wrong.",
        ),
        Section(
            "Is confidence what it says?",
            Markup(drawn(plots.reliability, found, 3.4)),  # noqa: S704 -- its text is escaped there
            f"Answers of {ours.name} in up to 15 bins of equal numbers, known and unknown questions together, with 95% "
            "intervals. On the dashed diagonal an answer of 80% confidence is right 8 times in 10; points below it are "
            "too sure. The curve was fitted on other questions. The dashed upright line is the threshold.",
        ),
    ]
    for kind, groups in ours.errors.items():
        bars = len(plots.shown_groups(groups))
        plot = Markup(drawn(plots.errors, {"groups": groups}, 0.9 + 0.24 * bars))  # noqa: S704
        made.append(Section(f"Errors by {kind}", plot, _worst(groups, bars)))
    return made


def _threshold(ours: Knowledge) -> str:
    calibration, chosen = ours.calibration, ours.chosen
    risk = f"at most {100 * calibration.risk:g}% of the answers wrong and of the unknown questions answered"
    if calibration.threshold > 1:
        return (
            f"No threshold could be shown to keep the risk ({risk}) on the validation questions: nothing is answered."
        )
    return (
        f"Threshold {calibration.threshold:.3f}, for {risk}. On the validation questions it gives {chosen.given} "
        f"answers, {chosen.wrong} of them wrong (95% bound, with the search: {chosen.wrong_bound:.1%}), and answers "
        f"{chosen.unknown_answered} unknown questions (bound {chosen.unknown_bound:.1%})."
    )


def _worst(groups: Sequence[Group], shown: int) -> str:
    """Say which group is surely worse than the whole, and what is not shown."""
    right, n = (sum(getattr(group.right, part) for group in groups) for part in ("count", "n"))
    worse = [group for group in groups if group.right.high < right / n]
    names = ", ".join(group.name for group in sorted(worse, key=lambda group: group.right.share or 0.0)[:5])
    said = "Known questions that are not answered rightly, in the file's own words, with 95% intervals. "
    said += f"Whole intervals above the mean: {names}. " if worse else "No interval lies wholly above the mean. "
    return said + (f"The {shown} largest of {len(groups)} groups." if shown < len(groups) else "")
