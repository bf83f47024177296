"""The findings as a short table for the terminal."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def table(found: dict[str, Any]) -> RenderableType:
    """Return one line a layer, and a line for each thing that could not be measured."""
    rules = found["drops"]["rules"]
    titles = ["layer", "busiest", "never", "entropy", "ids", "positions", "texts", *(f"drops {rule}" for rule in rules)]
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        shown.add_column(Text(title), justify="right", no_wrap=True)
    for at, layer in enumerate(found["layers"]):
        cells = [
            str(found["model"]["layers"][at]),
            f"{layer['balance']['max_over_mean']:.2f}",
            str(layer["balance"]["unused"]),
            f"{layer['confidence']['entropy_share']:.2f}",
            _mean(layer["token_specialisation"]),
            _mean(layer["position_specialisation"]),
            _percent(
                max((t["to_others"] for t in layer["texts"].values() if t["to_others"] is not None), default=None)
            ),
            *(_percent(rule["dropped_by_layer"][at]) for rule in rules.values()),
        ]
        shown.add_row(*map(Text, cells))
    return Group(
        Text(f"{found['model']['name']}: {found['model']['experts']} experts, {found['model']['chosen']} chosen"),
        Text(", ".join(f"{text['name']} {text['tokens']:,} tokens" for text in found["texts"])),
        Text(),
        shown,
        Text(),
        *map(Text, _legend(found)),
        *_stability(found["stability"]),
        *(Text(f"too little text: {line}") for line in found["too_little"]),
    )


def _legend(found: dict[str, Any]) -> list[str]:
    """Say what the columns are, with what chance alone would give."""
    here = found["layers"][found["detail"]["index"]]
    lines = ["busiest: expert's use, over the mean; never: experts never chosen; entropy: share of the largest"]
    for key, column in (("token_specialisation", "ids"), ("position_specialisation", "positions")):
        if here[key]:
            lines.append(
                f"{column}: spread over experts, share of the largest possible ({here[key]['groups']} measured; in "
                f"layer {found['detail']['layer']} {_percent(here[key]['chance'])} by chance, "
                f"{_percent(here[key]['load'])} by unequal load)"
            )
    lines.append("texts: choices in which the most different text differs from the others")
    drops = found["drops"]
    group = "row" if drops["group"] == "sequence" else "batch"
    lines.append(f"drops: choices without room in a {group}, capacity factor {drops['capacity_factor']:g}")
    return lines


def _stability(compared: dict[str, Any] | None) -> list[Text]:
    if compared is None:
        return []
    lines = [
        f"{row['name']}: {_percent(sum(row['saturation']) / len(row['saturation']))} of the choices are those of "
        f"{compared['last']} (by chance {_percent(compared['chance'])})"
        for row in compared["checkpoints"]
    ]
    return [Text(line) for line in lines]


def _mean(measured: dict[str, Any] | None) -> str:
    return "-" if measured is None else _percent(measured["mean"])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
