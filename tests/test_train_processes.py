"""Several processes: the losses of one, whole or sharded; checkpoints that any number of processes reads."""

import json
import os
import random
import signal
import time
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forks import die_at
from safetensors.torch import load_file, save_file
from test_train_loop import SETTINGS, examples, losses
from test_train_losses import SIZES, qwen
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from metier.errors import RunError
from metier.model.scratch import scratch
from metier.spec.training import Losses, Train
from metier.train import budget, checkpoint, loop, processes
from metier.train.batches import JobBatches, collate
from metier.train.checkpoint import resume, save_checkpoint
from metier.train.loop import train
from metier.train.objective import predict
from metier.train.optimizers import optimizer_for

STEPS = SETTINGS.model_copy(update={"budget": "6 steps", "validations": 2})
HERE = "test_train_processes"


def llama():
    """Tied, with sizes that two processes cannot halve."""
    torch.manual_seed(0)
    config = SIZES | {"vocab_size": 65, "intermediate_size": 49, "tie_word_embeddings": True}
    return LlamaForCausalLM(LlamaConfig(**config)).float()


def mistral():
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**SIZES, intermediate_size=48, sliding_window=8)).float()


def openmoe():
    return scratch(64, 32, 4, 64, seed=3, architecture="openmoe", experts=4)


MODELS = {"llama": llama, "mistral": mistral, "qwen3_moe": qwen, "openmoe": openmoe}


def learn(kind, folder, changes, rate=3e-3):
    """Train a tiny model, in this process."""
    settings = Train.model_validate(STEPS.model_dump(exclude_unset=True) | changes)
    Path(folder).mkdir(exist_ok=True)
    held_out = examples(100)[90:]
    return train(MODELS[kind], examples(90), held_out, settings, rate, Path(folder), pad=0, seed=5, losses=Losses())


def learn_together(kind, folder, changes, rate=3e-3, stop=None):
    """Be one of several processes that train a tiny model; stop before a step."""
    torch.set_num_threads(1)
    update, made = loop.update, iter(range(10**6))

    def update_or_stop(*args):
        if next(made) == stop:
            raise KeyboardInterrupt
        return update(*args)

    loop.update = update_or_stop
    with processes.joined():
        tell_share(Path(folder))
        model, facts = learn(kind, folder, changes, rate)
        if processes.is_main():
            save_file({name: p.detach().contiguous() for name, p in model.named_parameters()}, Path(folder) / "end")
            (Path(folder) / "facts").write_text(json.dumps(facts))


def tell_share(folder):
    """Leave in a file what share of the bytes of weights and moments this process holds at a checkpoint."""
    save = loop.save_checkpoint

    def save_and_tell(place, step, model, optimizer, state):
        moments = [one for of_one in optimizer.state.values() for one in of_one.values() if one.dim()]
        tensors = [parameter.detach() for parameter in model.parameters()] + moments
        held = sum(processes.to_local(one).untyped_storage().nbytes() for one in tensors)
        (folder / f"share-{processes.rank()}").write_text(str(held / sum(one.nbytes for one in tensors)))
        save(place, step, model, optimizer, state)

    loop.save_checkpoint = save_and_tell


def assert_nearly_the_same(one, other, rel=2e-4):
    """Compare every number of two trainings' logs but the time."""
    logs = [[json.loads(line) for line in (f / "steps.jsonl").read_text().splitlines()] for f in (one, other)]
    assert len(logs[0]) == len(logs[1]) == 6
    for mine, theirs in zip(*logs, strict=True):
        assert set(mine) == set(theirs)
        for name in set(mine) - {"tokens_per_s"}:
            assert mine[name] == pytest.approx(theirs[name], rel=rel), (mine["step"], name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Trainings by one process, each made once."""
    made = {}

    def of(kind, changes=(), rate=3e-3):
        if (key := (kind, *changes)) not in made:
            made[key] = tmp_path_factory.mktemp(kind)
            model, facts = learn(kind, made[key], dict(changes), rate)
            (made[key] / "facts").write_text(json.dumps(facts))
            save_file({name: p.detach().contiguous() for name, p in model.named_parameters()}, made[key] / "end")
        return made[key]

    return of


@pytest.mark.parametrize(
    ("kind", "shard", "micro"),
    [
        *(("llama", False, None), ("llama", True, 30), ("mistral", False, 30), ("mistral", True, None)),
        *(("qwen3_moe", False, None), ("qwen3_moe", False, 30), ("qwen3_moe", True, None), ("qwen3_moe", True, 30)),
        ("openmoe", True, 30),
    ],
)
def test_two_processes_have_the_losses_of_one(forks, alone, tmp_path, kind, shard, micro):
    changes = {"shard": shard, "micro_batch_tokens": micro, "activation_checkpointing": micro is not None}
    assert forks.run(HERE, "learn_together", kind, tmp_path, changes, processes=2) == [0, 0]
    expected = alone(kind)
    assert_nearly_the_same(tmp_path, expected)
    one, other = (json.loads((folder / "facts").read_text()) for folder in (tmp_path, expected))
    assert one["validation_loss_nats"] == pytest.approx(other["validation_loss_nats"], rel=2e-4)
    assert (one["tokens"], one["best_step"]) == (other["tokens"], other["best_step"])
    shares = [float((tmp_path / f"share-{number}").read_text()) for number in (0, 1)]
    assert max(shares) <= 0.6 if shard else shares == [1, 1]
    mine, theirs = load_file(tmp_path / "end"), load_file(expected / "end")
    assert mine.keys() == theirs.keys()
    assert all(torch.allclose(mine[name], theirs[name], atol=2e-3) for name in theirs)


@pytest.mark.parametrize("shard", [False, True], ids=["whole", "sharded"])
@pytest.mark.parametrize(
    ("changes", "rate"),
    [
        ({"quantisation": "Q4_0"}, 3e-3),
        ({"optimizer": "adafactor"}, 0.05),
        ({"precision": "bfloat16"}, 3e-3),
        ({"freeze_router_after": 0.5}, 3e-3),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)
def test_every_way_of_learning_works_in_two_processes(forks, alone, tmp_path, changes, rate, shard):
    together = changes | {"shard": shard}
    assert forks.run(HERE, "learn_together", "qwen3_moe", tmp_path, together, rate, processes=2) == [0, 0]
    rel = 0.02 if "precision" in changes else 2e-4
    assert_nearly_the_same(tmp_path, alone("qwen3_moe", tuple(changes.items()), rate), rel)


def learn_until_killed(folder, changes, when):
    """Be one of two processes, of which the second is killed: before a step, or in a checkpoint, between two shards.

    Where ``when`` is a number the first is, as it opens, renames or removes a file for so many times.
    """
    fit, update, write, calls = loop.fit, loop.update, HuggingFaceStorageWriter.write_data, count()

    def fit_or_die(*args, **named):
        if isinstance(when, int) and processes.is_main():
            die_at(when)
        return fit(*args, **named)

    def update_or_die(*args):
        if when == "a step" and processes.rank() == 1 and next(calls) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return update(*args)

    def write_or_die(self, *args):
        if when == "a checkpoint" and processes.rank() == 1 and next(calls) == 1:
            while not list(Path(self.path).glob("shard-00001-*")):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, *args)

    loop.fit, loop.update, HuggingFaceStorageWriter.write_data = fit_or_die, update_or_die, write_or_die
    learn_together("llama", folder, changes)


@pytest.mark.parametrize("shard", [False, True], ids=["whole", "sharded"])
def test_two_processes_that_are_killed_end_with_the_bits_of_two_that_are_not(forks, tmp_path, shard):
    whole, killed, changes = tmp_path / "whole", tmp_path / "killed", {"shard": shard, "budget": "12 steps"}
    assert forks.run(HERE, "learn_together", "llama", whole, changes, processes=2) == [0, 0]
    drawn = random.SystemRandom().randrange(60)
    for when in (drawn, "a step", "a checkpoint"):
        codes = [-signal.SIGKILL, 1] if when == drawn else [1, -signal.SIGKILL]
        assert forks.run(HERE, "learn_until_killed", killed, changes, when, processes=2) == codes, (when, drawn)
    (half,) = killed.glob("step-*.part")
    assert [file.name[:11] for file in half.iterdir()] == ["shard-00001"]
    assert forks.run(HERE, "learn_together", "llama", killed, changes, processes=2) == [0, 0], drawn
    assert losses(killed) == losses(whole), drawn
    assert (killed / "end").read_bytes() == (whole / "end").read_bytes(), drawn


@pytest.mark.parametrize("shard", [False, True], ids=["whole", "sharded"])
def test_processes_that_diverge_stop_together_at_the_step_that_one_would(forks, tmp_path, shard):
    for number in (1, 2):
        folder = tmp_path / str(number)
        codes = forks.run(HERE, "learn_together", "llama", folder, {"shard": shard}, 1e38, processes=number)
        assert codes == [1] * number
        assert len(losses(folder)) == len(losses(tmp_path / "1"))


def learn_patiently(folder):
    """Be one of two processes that give up sooner than the first has written and hashed."""
    begin, kept = processes.dist.init_process_group, []

    def slowly(work):
        return lambda *args: (time.sleep(2), work(*args))[1]

    processes.dist.init_process_group = partial(begin, timeout=timedelta(seconds=1.5))
    checkpoint.sha256_file, checkpoint._digest = slowly(checkpoint.sha256_file), slowly(checkpoint._digest)
    with processes.joined():
        for _ in range(2):  # from the beginning, and from the checkpoint
            loop.fit(
                llama,
                lambda position: JobBatches(examples(90), 120, 0, 5, position),
                [collate(examples(8), 0)],
                STEPS.model_copy(update={"budget": "2 steps", "validations": 1}),
                3e-3,
                Path(folder),
                seed=5,
                keep=slowly(lambda done, _: kept.append(done)),
                kept=1,
            )
            processes.barrier()
        if processes.is_main():
            (Path(folder) / "kept").write_text(str(kept))


def test_others_wait_while_the_first_writes_and_hashes(forks, tmp_path):
    assert forks.run(HERE, "learn_patiently", tmp_path, processes=2) == [0, 0]
    assert (tmp_path / "kept").read_text() == "[2, 2]"  # once more when it was taken up again


def be_joined(folder, error):
    """Be one of two processes, and tell whether the group was left in the end."""
    left = []
    destroy, processes.dist.destroy_process_group = processes.dist.destroy_process_group, lambda: left.append(1)
    try:
        with processes.joined():
            if error:
                raise RuntimeError
    except RuntimeError:
        pass
    (Path(folder) / str(processes.rank())).write_text(str(left))
    destroy()


@pytest.mark.parametrize("error", [False, True])
def test_a_process_with_an_error_does_not_wait_for_the_others(forks, tmp_path, error):
    assert forks.run(HERE, "be_joined", tmp_path, error, processes=2) == [0, 0]
    assert [(tmp_path / name).read_text() for name in "01"] == ["[]" if error else "[1]"] * 2


@pytest.mark.parametrize("shard", [False, True], ids=["whole", "sharded"])
@pytest.mark.parametrize("first", [1, 2])
def test_what_one_number_of_processes_began_another_ends(forks, alone, tmp_path, first, shard):
    for number, stop in ((first, 3), (3 - first, None)):
        codes = forks.run(HERE, "learn_together", "qwen3_moe", tmp_path, {"shard": shard}, 3e-3, stop, processes=number)
        assert codes == [1 if stop else 0] * number
        assert len(losses(tmp_path)) == (stop or 6)
    assert_nearly_the_same(tmp_path, alone("qwen3_moe"))


def write_or_read(folder, optimizer, task):
    """Be one of two processes with a sharded model: write a checkpoint, or read one and tell what it held."""
    folder, settings = Path(folder), STEPS.model_copy(update={"optimizer": optimizer})
    with processes.joined():
        model = qwen()
        processes.shard(model, predict)
        mover = optimizer_for(model, settings)
        if task == "write":
            move(model, mover)
            save_checkpoint(folder, 7, model, mover, {"a": [1, None]})
        else:
            assert resume(folder, model, mover) == (7, {"a": [1, None]})
        held = contents(model, mover)
        if processes.is_main():
            save_file(held, folder / "held")


def move(model, optimizer):
    """Give everything a value of its own; the routers never had a gradient."""
    for step in range(2):
        for name, parameter in model.named_parameters():
            if "gate.weight" not in name:
                parameter.grad = (parameter.detach() + step).cos()
        optimizer.step()


def contents(model, optimizer):
    held = {name: processes.full_tensor(p.detach()).contiguous() for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            held[f"{name}/{key}"] = processes.full_tensor(value).contiguous()
    return held


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_checkpoint_of_two_shards_is_read_whole_and_the_reverse_bit_by_bit(forks, tmp_path, optimizer):
    settings = STEPS.model_copy(update={"optimizer": optimizer})
    assert forks.run(HERE, "write_or_read", tmp_path, optimizer, "write", processes=2) == [0, 0]
    assert len(list((tmp_path / "step-00000007").glob("*.safetensors"))) == 2
    model = qwen()
    mover = optimizer_for(model, settings)
    assert resume(tmp_path, model, mover) == (7, {"a": [1, None]})
    assert_equal(contents(model, mover), load_file(tmp_path / "held"))

    one = tmp_path / "one"
    save_checkpoint(one, 7, model, mover, {"a": [1, None]})
    assert forks.run(HERE, "write_or_read", one, optimizer, "read", processes=2) == [0, 0]
    assert_equal(contents(model, mover), load_file(one / "held"))


def assert_equal(one, other):
    assert one.keys() == other.keys() and any("/" in name for name in one)
    assert not any("gate.weight/" in name for name in one)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_a_kill_left_of_a_checkpoint_is_gone_with_the_next_one(tmp_path):
    (tmp_path / "step-00000001.part").mkdir()
    (tmp_path / "step-00000001.part" / "shard").write_text("half")
    model = llama()
    save_checkpoint(tmp_path, 2, model, optimizer_for(model, STEPS), {})
    assert [file.name for file in tmp_path.iterdir()] == ["step-00000002"]


def test_a_checkpoint_holds_no_pickle(tmp_path):
    model = llama()
    save_checkpoint(tmp_path, 1, model, optimizer_for(model, STEPS), {})
    assert {file.suffix for file in (tmp_path / "step-00000001").iterdir()} == {".safetensors", ".json"}


def agree(folder):
    """Be one of two processes: take the first one's word, and add up."""
    with processes.joined():
        number = processes.rank()
        said = processes.broadcast_object({"number": number, "text": "é" * number, "none": None})
        total = processes.all_reduce_sum(torch.tensor([1, 10 * number]))
        (Path(folder) / str(number)).write_text(json.dumps([processes.world_size(), said, total.tolist()]))


def test_the_first_process_decides_and_all_add_up(forks, tmp_path):
    assert forks.run(HERE, "agree", tmp_path, processes=2) == [0, 0]
    told = [json.loads((tmp_path / name).read_text()) for name in "01"]
    assert told == [[2, {"number": 0, "text": "", "none": None}, [2, 10]]] * 2


def test_a_process_that_is_alone_agrees_with_itself():
    values = torch.tensor([1.0])
    assert processes.broadcast_object("x") == "x" and processes.all_reduce_sum(values) is values
    assert (processes.world_size(), processes.rank(), processes.is_main()) == (1, 0, True)


def plan(folder):
    """Be one of two processes, on machines of different speed: make a plan."""
    with processes.joined():
        ticks = (number * (processes.rank() + 1) for number in count())
        budget.time = SimpleNamespace(monotonic=lambda: next(ticks) / 10)
        settings = STEPS.model_copy(update={"budget": "100s", "checkpoint_seconds": 1000.0})
        coming = [collate(examples(8), 0)] * 6
        made = budget.plan_training(Path(folder) / "plan.json", llama(), lambda: coming, coming[:1], settings)
        (Path(folder) / str(processes.rank())).write_text(str(made.steps))


def test_a_budget_of_time_is_measured_by_the_first_process(forks, tmp_path):
    assert forks.run(HERE, "plan", tmp_path, processes=2) == [0, 0]
    steps = json.loads((tmp_path / "plan.json").read_text())["steps"]
    # a step takes 0.1 s on the first one's clock, 0.2 s on the other's
    assert steps > 900 and [(tmp_path / name).read_text() for name in "01"] == [str(steps)] * 2


def test_accelerators_that_cannot_work_together_are_named(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("mps"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda _: None)
    with pytest.raises(RunError, match="accelerators of type mps"), processes.joined():
        pass
