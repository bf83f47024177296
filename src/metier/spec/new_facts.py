"""Write a job description for questions about facts: of a table of one's own, or of WordNet's lives and events."""

import json
from pathlib import Path

from metier.errors import DataError
from metier.spec.examples import Examples

TEMPLATE = """\
# What this job is, what it learns from and what it must achieve.
# After editing: metier build {folder}

name = {name}
task = "qa"

[qa]
unknown = "I don't know."          # what the model says where it does not know
risk = 0.05                        # at most this share of answers wrong, and of the unknowable answered
{relations}
variants = 30                      # different questions for each fact in the training
withheld_share = 0.04              # share of the subjects that training leaves out, for the exam
abstain_share = 0.35               # share of the training that nobody could answer, mostly made-up names
comparison_share = 0.05            # share of the training that asks which of two came first
source_tags = false                # true: every other training question begins with the name of its source

# [[qa.phrasings]]                 # ways to ask, for relations of your own, or further ones
# relation = "height"
# ask = ["How high is {{subject}}?", "What is the height of {{subject}}?", "How tall is {{subject}}?"]
# reverse = ["What is {{value}} high?"]

[base]                             # the model is made from scratch: facts are all it knows
model = "scratch"
vocabulary = 8000                  # word pieces to learn
hidden_size = 512                  # width: a wider model holds more facts
layers = 1                         # one layer learns facts soonest; to compare two of them takes more

[[data.facts]]                     # facts to learn; write this table again for each further source
{source}

[data.split]
validation_share = 0.05            # share of the facts in each exam; at least 500 if there are so many
test_share = 0.05

[train]
budget = "30m"                     # how long to train: "90s", "10m", "2h", or "300 steps"
batch_tokens = 1024                # many small steps learn facts sooner than few large ones
peak_lr = 1e-3
max_tokens = 96                    # longest example, question and answer together; longer ones are left out

[evaluate]
validation_rows = 300              # questions that each file answers before one is chosen
test_rows = 1000                   # questions of the final exam
max_answer_tokens = 32             # longest answer

[export]
quantisations = ["Q8_0", "Q4_0"]   # sizes of the file to try; the smallest that is good enough ships

[limits]                           # what the shipped file may need at most
file_mib = 40

[release]
must_beat = []                     # a model from scratch has no base to beat
"""

_WORDNET = """\
source = "deb:wordnet-base"        # needs apt; or your own, "file:facts.csv": subject, relation, value
path = "usr/share/wordnet/data.noun"
format = "wordnet"                 # or "csv", "tsv", "jsonl"
licence = "WordNet"                # of your own text "own", else an SPDX name such as "CC-BY-4.0"
attribution = "WordNet 3.0, Princeton University\""""

_WORDNET_RELATIONS = """\
relations = [                      # those to ask for; remove the list to ask for all
  "born", "died", "born in", "lived", "ruled", "occurred", "founded", "built", "capital",
]"""

_ALL = """\
# relations = ["born", "died"]     # those to ask for; without the list all of the sources"""

COLUMNS = ("subject", "relation", "value")
"""That a table of facts has."""
_FURTHER = ("date", "hint", "also")


def relations(found: Examples | None) -> str:
    """Return the relations that a new description asks for, as its lines."""
    return _ALL if found else _WORDNET_RELATIONS


def source(examples: Path | None, found: Examples | None, path: str) -> str:
    """Return the lines of a source: WordNet, or a table as it was found.

    Args:
        examples: the table, or None.
        found: what it holds.
        path: of the table, from the folder of the description.

    Raises:
        DataError: when the table has no columns of the names that are needed.
    """
    if not examples or not found:
        return _WORDNET
    by_name = {name.strip().casefold(): name for name in reversed(found.columns)}
    lacking = [name for name in COLUMNS if name not in by_name]
    if lacking:
        has = f"its columns are {', '.join(found.columns[:20])}" if found.columns else "its first row has no names"
        fix = (
            "Name columns 'subject', 'relation' and 'value' in the first row, a fact a row; for pairs of question and "
        )
        fix += "answer write --task text2text"
        raise DataError(str(examples), f"has no column {lacking[0]!r}; {has}", fix)
    lines = [
        f"# {found.rows:,} rows were found. Please check the licence.",
        f"source = {json.dumps(f'file:{path}', ensure_ascii=False)}",
        'licence = "own"                    # your own text; else an SPDX name such as "CC-BY-4.0"',
        f"format = {json.dumps(found.format)}",
    ]
    kept = [name for name in (*COLUMNS, *_FURTHER) if name in by_name]
    columns = [f"{name} = {json.dumps(by_name[name], ensure_ascii=False)}" for name in kept]
    return "\n".join([*lines, *written(found), *columns])


def written(found: Examples) -> list[str]:
    """Return the lines that say how a file is written, where it is not as usual."""
    lines = []
    if found.encoding != "utf-8":
        lines.append(f'encoding = "{found.encoding}"  # guessed: look whether the text reads right')
    if found.delimiter != ",":
        lines.append(f"delimiter = {json.dumps(found.delimiter)}  # between two cells")
    return lines
