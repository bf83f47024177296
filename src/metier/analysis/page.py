"""The findings as one HTML page that needs nothing from outside: plots, a sentence under each, and tables."""

import math
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment
from markupsafe import Markup

from metier.analysis import plots
from metier.analysis.svg import drawn

MOST_IDS = 12
"""So many of the most and of the least specialised token ids are listed."""


class Section(NamedTuple):
    """One plot and what is to be seen in it."""

    title: str
    plot: Markup
    sentence: str


def filled(template: str, **values: Any) -> str:
    """Return a page made of a template beside this module, in the style of all pages; values are escaped."""
    beside = resources.files("metier.analysis")
    style = Markup(beside.joinpath("page.css").read_text(encoding="utf-8"))  # noqa: S704 -- our own
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    source = beside.joinpath(template).read_text(encoding="utf-8")
    return environment.from_string(source).render(style=style, **values)


def page(found: dict[str, Any]) -> str:
    """Return the HTML page of findings; text from the data, the vocabulary and the names is escaped."""
    ids = found["detail"]["token_ids"]
    least = ids[max(len(ids) - MOST_IDS, MOST_IDS) :]
    return filled(
        "page.html",
        found=found,
        sections=sections(found),
        most=ids[:MOST_IDS],
        least=least,
        detail=found["detail"]["layer"],
    )


def sections(found: dict[str, Any]) -> list[Section]:
    """Return the plots that the findings have numbers for."""
    detail, layers = found["detail"], found["layers"]
    where = f"layer {detail['layer']}"
    here = layers[detail["index"]]
    E = found["model"]["experts"]
    long_texts = len(plots.enough(found))
    made = [
        _section("Load", plots.load_by_layer, found, 1.2 + 0.16 * min(len(layers), 40), _load(found)),
    ]
    if long_texts:
        made.append(
            _section(
                f"Experts by text, {where}", plots.use_by_text, found, 1.2 + 0.28 * long_texts, _by_text(found, here)
            )
        )
    if any(layer["token_specialisation"] or layer["position_specialisation"] for layer in layers):
        made.append(
            _section("Specialisation without context", plots.specialisation_by_layer, found, 3.2, _specialised(found))
        )
    if detail["token_ids"]:
        made.append(_section(f"Token ids, {where}", plots.spread_of_token_ids, found, 3.2, _ids(found)))
    if detail["positions"]["spread_of_largest"]:
        made.append(_section(f"Positions, {where}", plots.spread_of_positions, found, 2.6, _positions(detail)))
    if len(detail["positions"]["bins"]) > 1:
        height = 1.2 + 0.28 * len(detail["positions"]["bins"])
        made.append(
            _section(
                f"Experts by position, {where}",
                plots.use_by_position,
                found,
                height,
                f"One row is {detail['positions']['bin']} neighbouring positions; rows that look alike mean that the "
                "place in the text hardly matters.",
            )
        )
    if detail["coactivation"]:
        height = 4.2 if E < 33 else 5.6
        made.append(
            _section(
                f"Experts together, {where}",
                plots.coactivation,
                found,
                height,
                _together(detail, here["use"], found["tokens"]),
            )
        )
    if long_texts:
        made.append(_section("Drops by position", plots.drops, found, 3.2, _drops(found)))
    made.append(
        _section(
            "Confidence",
            plots.confidence,
            found,
            2.8,
            f"An undecided router gives each of its {E} experts the probability {1 / E:.3f} and has an entropy of 1. "
            "Weights are those the model adds the experts' answers up with: where it scales them to a sum of 1, "
            "only the probability tells.",
        )
    )
    if found["stability"]:
        made.append(_section("Checkpoints", plots.stability, found, 3.2, _stability(found["stability"])))
    return made


def _section(title: str, draw: Any, found: dict[str, Any], height: float, sentence: str) -> Section:
    return Section(title, Markup(drawn(draw, found, height)), sentence)  # noqa: S704 -- its text is escaped there


def _load(found: dict[str, Any]) -> str:
    most = max(layer["balance"]["max_over_mean"] for layer in found["layers"])
    unused = sum(layer["balance"]["unused"] for layer in found["layers"])
    rows = [layer["balance"] for layer in found["layers"]]
    varied, chance = (float(np.mean([row[key] for row in rows])) for key in ("variation", "variation_chance"))
    return (
        f"The busiest expert gets {most:.1f} times its even share. {unused} of "
        f"{len(rows) * found['model']['experts']} experts are never chosen. The coefficient of variation "
        f"is {varied:.2f} on average; uniform routing would show {chance:.2f}."
    )


def _by_text(found: dict[str, Any], here: dict[str, Any]) -> str:
    compared = {name: text for name, text in here["texts"].items() if text["to_others"] is not None}
    if not compared:
        return "With one text only there is nothing to compare it with; give more with --data NAME=FILE."
    name = max(compared, key=lambda one: compared[one]["to_others"] - (compared[one]["between_halves"] or 0))
    apart, halves = compared[name]["to_others"], compared[name]["between_halves"]
    said = (
        f"Columns that change from row to row are experts with a preference. The most different text is {name}: "
        f"{apart:.0%} of its choices would have to move to be those of the others"
    )
    if halves is None:
        return said + "."
    verdict = "which is chance or change of topic" if halves < apart else "so this is no preference"
    return said + f"; its own two halves differ in {halves:.0%}, {verdict}."


def _specialised(found: dict[str, Any]) -> str:
    said = []
    for key, what in (("token_specialisation", "Token ids"), ("position_specialisation", "Positions")):
        rows = [layer[key] for layer in found["layers"] if layer[key]]
        if rows:
            mean, chance, load = (float(np.mean([row[name] for row in rows])) for name in ("mean", "chance", "load"))
            both = math.hypot(chance, load)
            said.append(
                f"{what} reach {mean:.0%} of the largest possible spread over experts ({rows[0]['groups']} measured; "
                f"{chance:.0%} by chance, {load:.0%} by unequal load, {both:.0%} by the two together)."
            )
    return " ".join(said) + " What is above the two together is specialisation. Bands: tenth to ninetieth percentile."


def _ids(found: dict[str, Any]) -> str:
    ids = found["detail"]["token_ids"]
    mean = float(np.mean([one["spread_of_largest"] for one in ids]))
    return (
        f"Each of the {len(ids)} token ids with more than 128 occurrences. On the red line, an id always goes to the "
        f"same experts, whatever stands around it; on the grey dots, it goes anywhere. "
        f"The mean is {mean:.0%} of the line."
    )


def _positions(detail: dict[str, Any]) -> str:
    positions = detail["positions"]
    first = positions["spread_of_largest"][0]
    said = f"Position 0 reaches {first:.0%}: it always holds the begin mark, where there is one."
    if positions["neighbours"] is not None:
        said += (
            f" Neighbouring positions differ in {positions['neighbours']:.1%} of their choices, positions half a row "
            f"apart in {positions['half_a_row_apart']:.1%}."
        )
    return said


def _together(detail: dict[str, Any], use: list[int], tokens: int) -> str:
    shares_EE = np.array(detail["coactivation"]["shares"])
    more_EE = shares_EE - np.array(use) / tokens
    more_EE[np.array(use) < np.mean(use) / 10] = 0  # an expert with few tokens has a partner by chance
    i, j = np.unravel_index(int(more_EE.argmax()), more_EE.shape)
    return (
        f"Dark cells are experts that work as a pair: {shares_EE[i, j]:.0%} of the tokens of expert {i} also go to "
        f"expert {j}, and {use[j] / tokens:.0%} of all tokens. A dark column is only an expert that is busy anyway."
    )


def _drops(found: dict[str, Any]) -> str:
    drops = found["drops"]
    parts = [
        f"{rule}: {row['dropped']:.1%} of the choices{_chance(row)}, {row['lost']:.1%} of the tokens entirely"
        for rule, row in drops["rules"].items()
    ]
    group = "a row" if drops["group"] == "sequence" else "a batch of rows"
    return (
        f"What would find no room with capacity factor {drops['capacity_factor']:g} when the {drops['group_tokens']} "
        f"tokens of {group} compete: {'; '.join(parts)}. Solid: choices dropped, as a share of all choices; dotted: "
        "tokens none of whose choices is kept. A curve that rises to the right is drop-towards-the-end: later tokens "
        "lose."
    )


def _chance(row: dict[str, Any]) -> str:
    """Say what a rule drops of routing that is even, and of routing that knows nothing."""
    if row["room"] is None:
        return ""
    return f" ({row['dropped_if_even']:.1%} if all experts were used alike, {row['dropped_by_chance']:.1%} at random)"


def _stability(compared: dict[str, Any]) -> str:
    when = compared["settled_at"]
    settled = f"from {when} on" if when else "at none of these checkpoints"
    return (
        f"Routing agrees with that of {compared['last']} in more than {compared['threshold']:.0%} of the choices "
        f"{settled} ({compared['tokens']} tokens compared, chance {compared['chance']:.0%})."
    )
