"""Jobs to plan, a machine and a measurement to plan them by, and what is shown of a plan."""

import io
import tomllib
from dataclasses import replace

from rich.console import Console

from metier.data.local_text import text_bytes
from metier.spec.advice import Difference, load_evidence
from metier.spec.job import Job
from metier.spec.machine import Machine
from metier.spec.plan import make_plan
from metier.spec.plan_table import render
from metier.spec.released import known_weights
from metier.tokenizer.learn import learn

MACHINE = Machine(cores=2, memory_mib=24_000.0, gflop_per_s=150.0, multiplies_bfloat16=False)


def job(*, base="", export="", limits="", train="", rest=""):
    """Return a job from scratch."""
    text = f"""
    name = "planned"
    task = "text2text"
    [base]
    model = "scratch"
    {base}
    [[data.train]]
    source = "file:pairs.tsv"
    licence = "own"
    [train]
    {train}
    [export]
    {export}
    [limits]
    {limits}
    [release]
    must_beat = []
    {rest}
    """
    return Job.model_validate(tomllib.loads(text))


def on_base(reference, vocabulary=""):
    text = f'name = "planned"\ntask = "text2text"\n[base]\nmodel = "{reference}"\n[vocabulary]\n{vocabulary}\n'
    return Job.model_validate(tomllib.loads(f'{text}[[data.train]]\nsource = "file:pairs.tsv"\nlicence = "own"\n'))


def undecided():
    """A measurement in which nothing is decided."""
    around_zero = Difference(0.01, -0.02, 0.04)
    return replace(
        load_evidence(), equal_tokens=around_zero, equal_time=around_zero, seconds_ratio=1.25, experts=16, tokens=10
    )


def pets():
    """A small tokenizer."""
    return learn(["the cat sat on the mat", "a dog barked at the moon all night"], 320).tokenizer()


def planned(description, evidence, machine=MACHINE):
    return make_plan(description, known_weights(description), machine, evidence, text_bytes=text_bytes)


def shown(plan, description):
    console = Console(width=300, file=io.StringIO())
    console.print(render(plan, description))
    return console.file.getvalue()
