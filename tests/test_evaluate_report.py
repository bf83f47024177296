"""The report shows good and bad news alike, and shows it unharmed."""

import io
from dataclasses import replace

from rich.console import Console

from metier.evaluate.metrics import Score
from metier.evaluate.report import conclusion, markdown, render
from metier.evaluate.significance import Comparison
from metier.evaluate.verdict import Contestant, Licences, Limit, Parity, Verdict, decide

CHRF2 = Score("chrf2", 34.12, 32.9, 35.2, 500, "nrefs:1|nc:6")
BLEU = Score("bleu", 13.4, 12.0, 14.9, 500, "nrefs:1|tok:13a")
SHIPPED = Contestant("job-Q8_0.gguf", (CHRF2, BLEU), 124.04, 87.26)
BASE = Contestant("base", (replace(CHRF2, value=31.3),))
GOOD = decide(
    must_beat=["base"],
    comparisons={"base": Comparison("chrf2", 2.8, 1.8, 4.0, 0.000999, 500, 1000)},
    file_mib=Limit(124.04, 130),
    ram_mib=Limit(None, None),
    parity=Parity(True, "low above -0.5 chrF2", {"low": -0.3}),
    licences=Licences(True, "CC-BY-4.0"),
    scores=[SHIPPED, BASE],
)
BAD = Verdict(tuple(replace(gate, passed=False) for gate in GOOD.gates), GOOD.scores, GOOD.comparisons)


def printed(verdict: Verdict, *scores: Contestant, colour: bool = False, width: int = 160) -> str:
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=colour, color_system="standard" if colour else None).print(
        render(replace(verdict, scores=tuple(scores)) if scores else verdict)
    )
    return file.getvalue()


def test_the_table_shows_each_contestant_with_interval_size_and_speed() -> None:
    header, shipped, base = printed(GOOD).splitlines()[:3]
    assert header.split() == ["contestant", "chrF2", "[low,", "high]", "BLEU", "n", "file", "MiB", "tokens/s"]
    assert shipped.split() == ["job-Q8_0.gguf", "34.1", "[32.9,", "35.2]", "13.4", "500", "124.0", "87.3"]
    assert base.split() == ["base", "31.3", "[32.9,", "35.2]", "-", "500", "-", "-"]


def test_each_gate_has_a_line_that_says_pass_or_fail() -> None:
    assert "pass  beats base: wanted better than base with p < 0.05; found chrf2 +2.80" in printed(GOOD)
    assert "pass  memory: not asked; found not measured" in printed(GOOD)
    assert printed(BAD).count("FAIL  ") == len(BAD.gates)
    assert "pass" not in printed(BAD)


def test_the_last_line_is_the_verdict_and_looks_the_same_either_way() -> None:
    good, bad = (printed(verdict, colour=True, width=2000).splitlines()[-1] for verdict in (GOOD, BAD))
    assert good == "\x1b[1mreleased\x1b[0m"
    assert bad.startswith("\x1b[1mnot released: because beats base: wanted")
    assert bad.rstrip().endswith("\x1b[0m")


def test_a_verdict_without_gates_says_so() -> None:
    assert conclusion(Verdict((), (), {})) == "not released: because no gate was examined"


def test_names_that_look_like_markup_or_table_lines_come_out_unharmed() -> None:
    odd = replace(SHIPPED, name="[red]a|b[/red]\n<script>")
    assert "[red]a|b[/red]" in printed(GOOD, odd)
    (row,) = [line for line in markdown(replace(GOOD, scores=(odd,))).splitlines() if "124.0 |" in line and "a" in line]
    assert row.startswith("| [red]a\\|b[/red] &lt;script> |")
    assert row.count("|") - row.count("\\|") == 7


def test_markdown_holds_the_table_the_gates_the_verdict_and_the_signatures() -> None:
    text = markdown(BAD)
    assert text.splitlines()[0] == "| contestant | chrF2 [low, high] | BLEU | n | file MiB | tokens/s |"
    assert text.splitlines()[1] == "| --- | ---: | ---: | ---: | ---: | ---: |"
    assert "| job-Q8_0.gguf | 34.1 [32.9, 35.2] | 13.4 | 500 | 124.0 | 87.3 |" in text
    assert text.count("- **FAIL** ") == len(BAD.gates)
    assert "**not released: because beats base: wanted" in text
    assert "**released**" in markdown(GOOD)
    assert "- chrF2: `nrefs:1|nc:6`" in text
    assert "- BLEU: `nrefs:1|tok:13a`" in text


def test_no_contestant_at_all_is_still_a_report() -> None:
    bare = Verdict((), (), {})
    assert "not released" in printed(bare)
    assert "not released" in markdown(replace(bare, scores=()))


def test_a_narrow_terminal_loses_no_gate_and_no_reason() -> None:
    text = " ".join(printed(BAD, width=40).split())
    for gate in BAD.gates:
        assert gate.found in text
