"""Adapters: a frozen base, the same bits after a kill, and a merged model that computes what the adapters did."""

import os
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from doubles import counted_animals, gemma, write_job
from mixtures import mixture, tokenizer
from safetensors.torch import load_file
from test_train_loop import assert_same, examples, losses, stopped_before
from test_train_processes import assert_nearly_the_same
from test_train_processes import learn as train_tiny
from transformers import AutoConfig, AutoModelForCausalLM

from metier.artifact import read_json
from metier.build import build
from metier.errors import ArtifactError, RunError
from metier.export.huggingface import write_folder
from metier.model.loading import load
from metier.model.scratch import scratch
from metier.spec.load import load_job
from metier.spec.training import Lora, Train
from metier.tokenizer.learn import learn
from metier.train import loop
from metier.train.batches import collate
from metier.train.lora import merged, with_adapters
from metier.train.objective import update
from metier.train.optimizers import optimizer_for, trained_parameters

_SHAPE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}


def dense(kind, **rest):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **_SHAPE | rest)).eval()


BASES = {
    "llama": lambda: dense("llama"),
    "mistral": lambda: dense("mistral"),
    "gemma3": lambda: gemma(320, layers=2).eval(),
    "qwen2 (biases)": lambda: dense("qwen2"),
    "qwen3 (tied)": lambda: dense("qwen3", tie_word_embeddings=True),
    "qwen3_moe, one layer dense": lambda: mixture("qwen3_moe"),
    "mixtral": lambda: mixture("mixtral"),
    "olmoe": lambda: mixture("olmoe"),
    "openmoe": lambda: scratch(320, 32, 2, 64, seed=3, architecture="openmoe", experts=4, moe_layer_interval=2).eval(),
}
LORA = Lora(rank=4)
WITH_ADAPTERS = {"lora": LORA.model_dump()}
STEPS = 6
SETTINGS = Train(
    budget=f"{STEPS} steps", batch_tokens=120, max_tokens=64, checkpoint_seconds=1e-9, validations=3, lora=LORA
)

every_base = pytest.mark.parametrize("base", BASES)


def run(folder, base, settings=SETTINGS):
    folder.mkdir(parents=True, exist_ok=True)
    return loop.train(BASES[base], examples(60), examples(70)[60:], settings, 1e-2, folder, pad=0, seed=5)


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.arange(3, 23)[None]).logits


def weights_of(model):
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def learned(base, lora=LORA, steps=3):
    """A model whose adapters have learned a little, in its wrapper."""
    model = with_adapters(BASES[base](), lora, seed=0)
    optimizer = optimizer_for(model, SETTINGS)
    for _ in range(steps):
        update(model, optimizer, collate(examples(12), 0), 1e-2, 1.0)
    return model


# what learns


@every_base
def test_a_model_with_new_adapters_computes_what_it_did_and_is_the_same_every_time(base):
    models = BASES[base](), BASES[base]()
    state = torch.get_rng_state()
    one, two = (with_adapters(model, LORA, seed=0) for model in models)
    assert torch.equal(torch.get_rng_state(), state)  # nothing is taken from the random numbers of others
    assert torch.equal(logits(one), logits(BASES[base]()))
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    other = with_adapters(BASES[base](), LORA, seed=1)
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@every_base
def test_every_matrix_of_the_layers_learns_through_adapters_and_nothing_else_does(base):
    model = BASES[base]()
    before = weights_of(model)
    body = {
        name: weight.shape
        for name, weight in model.named_parameters()
        if weight.dim() > 1 and not any(part in name for part in ("embed", "lm_head", "gate.weight", "gate_weight"))
    }
    adapted = with_adapters(model, LORA, seed=0)
    optimizer = optimizer_for(adapted, SETTINGS)
    adapters = trained_parameters(adapted, optimizer)
    assert all("lora_" in name for name in adapters)
    stacks = [(shape[:-2].numel(), *shape[-2:]) for shape in body.values()]
    assert sum(p.numel() for p in adapters.values()) == sum(LORA.rank * n * (a + b) for n, a, b in stacks)
    for _ in range(2):
        update(adapted, optimizer, collate(examples(12), 0), 1e-2, 1.0)
    after = {
        name.replace("base_layer.", "").removeprefix("base_model.model."): w for name, w in weights_of(adapted).items()
    }
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    whole = merged(adapted).state_dict()
    assert whole.keys() == before.keys()
    assert {name for name, weight in before.items() if not torch.equal(whole[name], weight)} == body.keys()


@every_base
def test_the_merged_model_computes_what_the_adapters_did(base):
    adapted = learned(base)
    before, untrained = logits(adapted), logits(BASES[base]())
    whole = merged(adapted)
    assert type(whole) is type(BASES[base]())
    assert (logits(whole) - before).abs().max() < 1e-5 < 0.01 < (before - untrained).abs().max()
    assert all(parameter.requires_grad for parameter in whole.parameters())


def test_attention_alone_can_have_the_adapters():
    names = [n for n, p in learned("mixtral", Lora(targets="attention")).named_parameters() if p.requires_grad]
    assert len(names) == 2 * 4 * 3
    assert all("self_attn" in name for name in names)


def test_an_embedding_that_learns_beside_adapters_stays_the_output_matrix():
    adapted = learned("qwen3 (tied)", Lora(rank=4, also=["embedding", "norms"]))
    names = {n for n, p in adapted.named_parameters() if p.requires_grad and "lora_" not in n}
    assert {name.rpartition("layers.")[2] for name in names} >= {
        "base_model.model.model.embed_tokens.weight",
        "base_model.model.model.norm.weight",
        "1.self_attn.q_norm.weight",
    }
    before, untrained = logits(adapted), BASES["qwen3 (tied)"]()
    whole = merged(adapted)
    assert whole.lm_head.weight is whole.model.embed_tokens.weight and whole.config.tie_word_embeddings
    assert not torch.equal(whole.lm_head.weight, untrained.lm_head.weight)
    assert (logits(whole) - before).abs().max() < 1e-5


def test_what_learns_beside_adapters_moves_at_a_tenth_of_their_rate():
    model = with_adapters(BASES["gemma3"](), Lora(rank=4, also=["embedding"]), seed=0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    update(model, optimizer_for(model, Train(weight_decay=0.0)), collate(examples(12), 0), 1e-3, 1.0)
    moved = {name: (p - before[name]).abs().max().item() for name, p in model.named_parameters() if p.requires_grad}
    # AdamW's first step is as long as the rate, wherever the gradient is not tiny
    assert {round(step, 4) for name, step in moved.items() if "lora_B" in name} == {1e-3}
    assert moved["base_model.model.model.embed_tokens.weight"] == pytest.approx(1e-4, rel=0.05)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_adapters_learn_in_every_precision(tmp_path, precision):
    settings = SETTINGS.model_copy(update={"precision": precision, "budget": "12 steps"})
    _, facts = loop.train(BASES["gemma3"], examples(60), examples(70)[60:], settings, 1e-2, tmp_path, pad=0, seed=5)
    found = facts["validation_loss_nats"]
    assert facts["precision"] == precision and found["12"] < 0.95 * found["0"]


# going on


@pytest.fixture(scope="module", params=["gemma3", "qwen3_moe, one layer dense"])
def whole(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    model, facts = run(folder, request.param)
    return SimpleNamespace(
        base=request.param, folder=folder, weights=weights_of(model), facts=facts, losses=losses(folder)
    )


def test_checkpoints_and_the_best_weights_hold_adapters_alone(whole):
    checkpoint = max(whole.folder.glob("step-????????"))
    stored = {name: held for file in checkpoint.glob("*.safetensors") for name, held in load_file(file).items()}
    weights = {name.removeprefix("model/"): held for name, held in stored.items() if name.startswith("model/")}
    for learned in (weights, load_file(whole.folder / "best.safetensors")):
        assert learned and all("lora_" in name for name in learned)
        assert sum(tensor.numel() for tensor in learned.values()) == whole.facts["trained_parameters"]
    moments = {name.removeprefix("optimizer/").rpartition("/")[0] for name in stored if name.startswith("optimizer/")}
    assert moments == weights.keys()
    assert whole.facts["trained_parameters"] < 0.5 * sum(weight.numel() for weight in whole.weights.values())


@pytest.mark.parametrize("stops", [(1,), (3, 2)])
def test_a_training_of_adapters_that_was_stopped_ends_with_the_same_bits(whole, tmp_path, stops):
    for stop in stops:
        with stopped_before(stop):
            run(tmp_path, whole.base)
    assert_same(whole, tmp_path, *run(tmp_path, whole.base))


def test_a_training_of_adapters_killed_from_outside_ends_with_the_same_bits(whole, tmp_path):
    child = os.fork()  # the libraries are loaded already
    if child == 0:
        update = loop.update
        loop.update = lambda *args: (time.sleep(0.1), update(*args))[1]
        try:
            run(tmp_path, whole.base)
        finally:
            os._exit(9)
    end = time.monotonic() + 60
    while not (tmp_path / "step-00000002").exists():
        assert time.monotonic() < end
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / f"step-{STEPS - 1:08d}").exists()
    assert_same(whole, tmp_path, *run(tmp_path, whole.base))


def test_the_merged_model_is_a_plain_folder_that_loads_as_any_other(whole, tmp_path):
    model, _ = run(tmp_path / "run", whole.base)
    write_folder(tmp_path / "model", model, tokenizer())
    again = load(tmp_path / "model").model
    assert torch.equal(logits(again), logits(model))
    assert not any("lora" in name for name in again.state_dict())


# with what else a training can be told


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
def test_layers_computed_twice_and_batches_in_parts_change_nothing(tmp_path, kind):
    plain, thrifty = tmp_path / "plain", tmp_path / "thrifty"
    train_tiny(kind, plain, WITH_ADAPTERS, 1e-2)
    train_tiny(kind, thrifty, WITH_ADAPTERS | {"micro_batch_tokens": 30, "activation_checkpointing": True}, 1e-2)
    assert_nearly_the_same(thrifty, plain)


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
def test_adapters_learn_the_same_in_two_processes(forks, tmp_path, kind):
    alone, together = tmp_path / "alone", tmp_path / "together"
    model, _ = train_tiny(kind, alone, WITH_ADAPTERS, 1e-2)
    codes = forks.run("test_train_processes", "learn_together", kind, together, WITH_ADAPTERS, 1e-2, processes=2)
    assert codes == [0, 0]
    assert_nearly_the_same(together, alone)
    stored = load_file(together / "end")
    assert all(torch.allclose(stored[name], p, atol=2e-3) for name, p in model.named_parameters())


# what is refused


def test_a_mixture_that_hides_its_experts_is_refused_by_name(monkeypatch):
    monkeypatch.setattr("metier.train.lora.EXPERTS", "in no name")
    with pytest.raises(ArtifactError, match=r"type 'qwen3_moe': it does not show the matrices .* 'linear'"):
        with_adapters(BASES["qwen3_moe, one layer dense"](), LORA, seed=0)


# a whole build


def job_on_a_base(folder):
    """A job on a tiny base, of whose vocabulary of 400 it keeps a part."""
    pieces = learn([text for pair in counted_animals(300) for text in pair], 400)
    write_folder(folder / "base", gemma(len(pieces), layers=1), pieces.tokenizer())
    job = write_job(folder, budget="5 steps", extra='[train.lora]\nrank = 4\nalso = ["embedding"]')
    description = (job / "job.toml").read_text()
    start, end = description.index("[base]"), description.index("[[data.train]]")
    base = '[base]\nmodel = "base"\nlicence = "own"\n[vocabulary]\npieces = 350\n'
    description = (description[:start] + base + description[end:]).replace("test_rows = 40", "test_rows = 20")
    (job / "job.toml").write_text(description)
    return load_job(job)


def test_without_the_package_a_build_names_the_extra_before_anything_is_trained(monkeypatch, tmp_path):
    job = job_on_a_base(tmp_path)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(RunError, match=r"'peft' is not installed. Install the extra metier\[lora\]"):
        build(job, tmp_path / "run")
    assert not (tmp_path / "run" / "prompt").exists()


def test_a_build_ships_the_merged_model(tmp_path):
    run = tmp_path / "run"
    build(job_on_a_base(tmp_path), run)
    facts = read_json(run / "train" / "manifest.json")["result"]
    assert facts["peak_lr"] == 5e-3
    assert facts["lora"] == {"rank": 4, "alpha": 32.0, "targets": "linear", "also": ["embedding"]}
    names = {path.name for path in (run / "train").iterdir()}
    assert names == {"manifest.json", "facts.json", "plan.json", "steps.jsonl", "model"}
    start, trained = (load(run / name).model.state_dict() for name in ("start", "train/model"))
    assert start.keys() == trained.keys()
    assert not any(torch.equal(weight, trained[name]) for name, weight in start.items() if weight.dim() > 1)
    assert read_json(run / "sweep.json")["candidates"]["Q8_0"]["passed"]
    assert "adapters of rank 4 (LoRA), merged into the weights" in (run / "export" / "README.md").read_text()
