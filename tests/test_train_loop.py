"""The loop: the same numbers every time, also after a kill, within the budget it was given."""

import copy
import gc
import json
import math
import re
import signal
import weakref
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forks import random_kills
from safetensors.torch import load_file, save_file
from test_train_losses import qwen
from transformers import GraniteConfig, GraniteForCausalLM

from metier.artifact import key_of
from metier.errors import ArtifactError, DataError, SpecError
from metier.model.scratch import scratch
from metier.spec.training import Losses, Pretrain, Train
from metier.train import budget, checkpoint, loop
from metier.train.batches import Example, collate
from metier.train.loop import train
from metier.train.objective import PLAIN, check_head

GOLDEN = Path(__file__).parent / "golden" / "losses.json"
STEPS = 20
SETTINGS = Train(budget=f"{STEPS} steps", batch_tokens=120, max_tokens=64, checkpoint_seconds=1e-9)


class KilledError(Exception):
    """Stands for whatever ends a training from outside."""


def examples(count: int) -> list[Example]:
    """Sums modulo 7, as token ids: nothing but arithmetic decides them."""
    return [
        Example([2, *(4 + (i * k) % 50 for k in range(1, 3 + i % 4))], [4 + i % 7, 4 + i * i % 7, 1])
        for i in range(count)
    ]


def tiny_model():
    return scratch(64, 32, 2, 64, seed=3)


def run(folder, settings=SETTINGS, make=tiny_model, losses=PLAIN):
    folder.mkdir(parents=True, exist_ok=True)
    return train(make, examples(90), examples(100)[90:], settings, 3e-3, folder, pad=0, seed=5, losses=losses)


def losses(folder):
    lines = (folder / "steps.jsonl").read_text().splitlines()
    return [(line["step"], line["loss_nats"], line["grad_norm"]) for line in map(json.loads, lines)]


@contextmanager
def stopped_before(step):
    """Let the loop's update raise before it makes this step, counted from here."""
    made, update = iter(range(10**6)), loop.update

    def update_or_stop(*args):
        if next(made) == step:
            raise KilledError
        return update(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "update", update_or_stop)
        with pytest.raises(KilledError):
            yield


def run_and_stop(folder, step, settings=SETTINGS, make=tiny_model):
    with stopped_before(step):
        run(folder, settings, make)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    model, facts = run(folder)
    return SimpleNamespace(weights=model.state_dict(), facts=facts, losses=losses(folder))


def assert_same(whole, folder, model, facts):
    assert losses(folder) == whole.losses
    assert facts["validation_loss_nats"] == whole.facts["validation_loss_nats"]
    assert (facts["tokens"], facts["best_step"]) == (whole.facts["tokens"], whole.facts["best_step"])
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, whole.weights[name]), name


def test_twenty_steps_have_the_golden_losses(whole):
    # Where the numbers are meant to change: delete the file, run this test twice, and say why in the commit.
    if not GOLDEN.exists():
        GOLDEN.write_text(json.dumps([loss for _, loss, _ in whole.losses], indent=1) + "\n")
        pytest.fail(f"{GOLDEN} was missing and is written anew")
    assert [loss for _, loss, _ in whole.losses] == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-4)


def test_the_loss_falls(whole):
    assert whole.losses[-1][1] < 0.75 * whole.losses[0][1]


@pytest.mark.parametrize("stops", [(1,), (7,), (3, 9), (19,)])
def test_a_training_that_was_stopped_ends_with_the_same_bits(whole, tmp_path, stops):
    for step in stops:
        run_and_stop(tmp_path, step)
    assert_same(whole, tmp_path, *run(tmp_path))


def test_a_stop_between_two_checkpoints_repeats_the_steps_after_the_last(whole, tmp_path, monkeypatch):
    save, saved = loop.save_checkpoint, []

    def every_fifth(folder, step, *rest):
        if step % 5 == 0:
            saved.append(step)
            save(folder, step, *rest)

    monkeypatch.setattr(loop, "save_checkpoint", every_fifth)
    run_and_stop(tmp_path, 13)
    assert saved == [5, 10]
    assert len(losses(tmp_path)) == 13
    assert_same(whole, tmp_path, *run(tmp_path))


@pytest.mark.parametrize("file", ["shard-00001-model-00001-of-00001.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "a bit", "other", "gone"])
def test_a_damaged_checkpoint_is_not_used_and_the_one_before_is(whole, tmp_path, file, damage, capsys):
    run_and_stop(tmp_path, 8)
    newest = max(tmp_path.glob("step-????????"))
    assert newest.name == "step-00000008"
    data = (newest / file).read_bytes()
    middle = data.index(b'"tokens": ') + 10 if file == "checkpoint.json" else len(data) // 2
    damaged = {
        "cut": data[:-9],
        "empty": b"",
        "a bit": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "other": (newest.with_name("step-00000007") / file).read_bytes()[: len(data)].ljust(len(data), b" "),
        "gone": None,
    }[damage]
    assert damaged != data
    (newest / file).unlink()
    if damaged is not None:
        (newest / file).write_bytes(damaged)
    assert_same(whole, tmp_path, *run(tmp_path))
    assert "going on after step 7 of 20" in capsys.readouterr().err


def test_a_half_written_checkpoint_is_not_taken_for_one(whole, tmp_path):
    run_and_stop(tmp_path, 8)
    newest = max(tmp_path.glob("step-????????"))
    newest.rename(newest.with_name(newest.name + ".part"))
    assert_same(whole, tmp_path, *run(tmp_path))


def test_no_more_than_two_checkpoints_are_kept(tmp_path):
    run(tmp_path)
    assert [f.name for f in sorted(tmp_path.glob("step-*"))] == ["step-00000018", "step-00000019"]


def train_to_the_end(folder, threads, changes):
    """Run a training; leave the weights beside its log."""
    torch.set_num_threads(threads)
    wider = scratch(1024, 64, 1, 64, seed=3) if threads > 1 else None  # enough for threads to share
    settings = SETTINGS.model_copy(update=changes)
    model, _ = run(Path(folder), settings, make=lambda: copy.deepcopy(wider) if wider else tiny_model())
    save_file(dict(model.named_parameters()), Path(folder) / "final.safetensors")


@pytest.mark.parametrize(
    ("threads", "changes", "kills"),
    [
        (1, {"budget": "60 steps"}, 10),
        (2, {"budget": "30 steps", "batch_tokens": 600, "precision": "bfloat16", "quantisation": "Q4_0"}, 4),
    ],
    ids=["one thread", "two threads in bfloat16 on the grid"],
)
def test_a_training_killed_at_random_ends_with_the_same_bits(forks, tmp_path, threads, changes, kills):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    asked = threads, changes
    assert forks.run("test_train_loop", "train_to_the_end", whole, *asked) == [0]
    seed, kinds = random_kills(kills)
    for kill in kinds:
        codes = forks.run("test_train_loop", "train_to_the_end", killed, *asked, **kill)
        assert codes == [-signal.SIGKILL], (seed, kill)
    assert forks.run("test_train_loop", "train_to_the_end", killed, *asked) == [0], seed
    assert losses(killed) == losses(whole), seed
    for file in ("final.safetensors", "best.safetensors"):
        assert (killed / file).read_bytes() == (whole / file).read_bytes(), seed


def test_a_model_that_draws_numbers_draws_the_same_after_a_stop(tmp_path):
    def with_dropout():
        model = tiny_model()
        for module in model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.3
        return model

    model, facts = run(tmp_path / "whole", make=with_dropout)
    whole = SimpleNamespace(weights=model.state_dict(), facts=facts, losses=losses(tmp_path / "whole"))
    run(tmp_path / "without")
    assert losses(tmp_path / "without") != whole.losses
    run_and_stop(tmp_path / "stopped", 9, make=with_dropout)
    assert_same(whole, tmp_path / "stopped", *run(tmp_path / "stopped", make=with_dropout))


@pytest.mark.parametrize("make", [tiny_model, qwen], ids=["dense", "moe"])
def test_computing_activations_twice_changes_no_bit(tmp_path, make):
    for folder, again in (("once", False), ("twice", True)):
        settings = SETTINGS.model_copy(update={"activation_checkpointing": again, "budget": "6 steps"})
        run(tmp_path / folder, settings, make=make, losses=Losses())
    assert losses(tmp_path / "twice") == losses(tmp_path / "once")


def test_a_model_that_cannot_compute_activations_twice_is_refused(tmp_path):
    def make():
        model = tiny_model()
        model.supports_gradient_checkpointing = False
        return model

    with pytest.raises(SpecError, match=r"train\.activation_checkpointing: models of type 'qwen3' cannot"):
        run(tmp_path, SETTINGS.model_copy(update={"activation_checkpointing": True}), make=make)


@pytest.mark.parametrize("make", [tiny_model, qwen], ids=["dense", "moe"])
@pytest.mark.parametrize("micro", [16, 50])
def test_a_batch_cut_into_parts_costs_what_it_costs_at_once(tmp_path, make, micro):
    for folder, tokens in (("at once", None), ("in parts", micro)):
        settings = SETTINGS.model_copy(update={"micro_batch_tokens": tokens, "budget": "6 steps"})
        run(tmp_path / folder, settings, make=make, losses=Losses())
    lines = [(tmp_path / folder / "steps.jsonl").read_text().splitlines() for folder in ("at once", "in parts")]
    for one, other in zip(*([json.loads(line) for line in log] for log in lines), strict=True):
        assert set(one) == set(other)
        for name in set(one) - {"tokens_per_s"}:
            assert other[name] == pytest.approx(one[name], rel=1e-4), name


def test_the_best_weights_are_returned_not_the_last(tmp_path, monkeypatch):
    found = iter([5.0, 2.0, 1.0, 3.0, 4.0])
    kept = {}

    def mean_loss(model, *_):
        loss = next(found)
        kept[loss] = {name: p.detach().clone() for name, p in model.named_parameters()}
        return loss

    monkeypatch.setattr(loop, "mean_loss", mean_loss)
    model, facts = run(tmp_path)
    assert facts["best_step"] == 10
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, kept[1.0][name])


@pytest.mark.parametrize("damage", ["cut", "empty", "a bit", "a fact", "of an earlier version", "gone"])
def test_damaged_best_weights_are_noticed_and_those_of_a_later_validation_are_taken(whole, tmp_path, damage, capsys):
    run_and_stop(tmp_path, 8)
    path = tmp_path / "best.safetensors"
    data = path.read_bytes()
    assert checkpoint.read_best(tmp_path).steps == 5
    middle = data.index(b"loss_nats") + 14 if damage == "a fact" else len(data) // 2
    digit = bytes([data[middle] ^ 1])
    damaged = {"cut": data[:-9], "empty": b""}.get(damage, data[:middle] + digit + data[middle + 1 :])
    if damage == "of an earlier version":
        save_file(load_file(path), path)
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(damaged)
    assert_same(whole, tmp_path, *run(tmp_path))
    told = f"{path}: is {'missing' if damage == 'gone' else 'damaged'}; a later validation takes its place"
    assert told in capsys.readouterr().err


def test_best_weights_that_are_damaged_at_the_end_are_an_error_and_the_same_command_goes_on(
    whole, tmp_path, monkeypatch
):
    right = loop._Run._best

    def damaged(self):
        path = self.folder / "best.safetensors"
        path.write_bytes(path.read_bytes()[:-9])
        return right(self)

    monkeypatch.setattr(loop._Run, "_best", damaged)
    with pytest.raises(ArtifactError, match=r"best\.safetensors: is damaged\. Run the same command again"):
        run(tmp_path)
    monkeypatch.undo()
    assert_same(whole, tmp_path, *run(tmp_path))


def test_best_weights_are_on_the_disk_before_they_take_the_place_of_the_ones_before(tmp_path, monkeypatch):
    flushed = []

    def flush(path):
        assert path.stat().st_size > 10_000
        flushed.append((path.name, (tmp_path / "best.safetensors").exists()))

    monkeypatch.setattr(checkpoint, "flush", flush)
    run(tmp_path, SETTINGS.model_copy(update={"budget": "1 steps", "validations": 1}))
    assert flushed == [("best.safetensors.part", False), ("best.safetensors.part", True)]


def test_best_weights_come_back_as_they_were_whatever_their_type(tmp_path):
    weights = {
        "a": torch.randn(3, 2).T,
        "b": torch.tensor(1.5),
        "c": torch.ones(2, dtype=torch.bfloat16),
        "d": torch.ones(0),
    }
    checkpoint.save_best(tmp_path, checkpoint.Best(7, 0.1 + 0.2, weights))
    found = checkpoint.read_best(tmp_path)
    assert (found.steps, found.loss_nats) == (7, 0.1 + 0.2)
    assert all(torch.equal(found.weights[name], weight) for name, weight in weights.items())


def run_to_nan(folder, settings=SETTINGS, rate=1e38, make=tiny_model):
    with pytest.raises((SpecError, ArtifactError)) as caught:
        train(make, examples(90), examples(100)[90:], settings, rate, folder, pad=0, seed=5)
    return str(caught.value)


def test_a_training_that_diverges_stops_where_it_does_and_again_when_it_is_taken_up(tmp_path):
    told = run_to_nan(tmp_path)
    steps = len(losses(tmp_path))
    assert 0 < steps < 5
    assert re.match(rf"train\.peak_lr: the (loss|gradient) is (nan|inf) after {steps} of 20 steps, at a highest", told)
    assert told.endswith("Write a lower one, such as 3e+37")
    assert run_to_nan(tmp_path) == told
    assert all(math.isfinite(loss) for _, loss, _ in losses(tmp_path))
    low = run_to_nan(tmp_path / "low", SETTINGS.model_copy(update={"precision": "bfloat16"}))
    assert low.endswith("Write a lower one, such as 3e+37, or train.precision = 'float32'")


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_validation_loss_that_is_no_number_stops_the_training(tmp_path, monkeypatch, number):
    right, taken = loop.mean_loss, []

    def mean_loss(*args):
        taken.append(1)
        return float(number) if len(taken) > 2 else right(*args)

    monkeypatch.setattr(loop, "mean_loss", mean_loss)
    assert run_to_nan(tmp_path, rate=3e-3).startswith(
        f"train.peak_lr: the validation loss is {number} after 10 of 20 steps"
    )
    assert checkpoint.read_best(tmp_path).steps == 5


def test_an_untrained_model_without_a_finite_loss_is_told_before_any_step(tmp_path):
    def broken():
        model = tiny_model()
        next(model.parameters()).data[:] = math.nan
        return model

    told = run_to_nan(tmp_path, make=broken)
    assert told.startswith("the model that training starts from: the validation loss is nan. Fetch or build it again")
    assert not (tmp_path / "steps.jsonl").exists()


def test_a_wall_clock_budget_becomes_steps_once(tmp_path):
    settings = Train(budget="3s", batch_tokens=120, max_tokens=64)
    coming = [collate(examples(8), 0)] * 6
    probed = (tmp_path / "plan.json", tiny_model(), lambda: coming, coming[:1], settings)
    plan = budget.plan_training(*probed)
    assert plan.steps >= 5
    assert json.loads((tmp_path / "plan.json").read_text())["steps"] == plan.steps
    assert not (tmp_path / "probe").exists()
    assert budget.stored_plan(tmp_path / "plan.json") == plan


def test_a_training_that_goes_on_is_not_planned_again(tmp_path, monkeypatch):
    settings = Train(budget="500s", batch_tokens=120, max_tokens=64)
    with stopped_before(3):
        run(tmp_path, settings)
    monkeypatch.setattr(budget, "_probe", lambda *_, **__: pytest.fail("probed again"))
    loaded = []
    with stopped_before(3):
        run(tmp_path, settings, make=lambda: loaded.append(1) or tiny_model())
    assert len(loaded) == 1


@pytest.fixture
def planned(tmp_path):
    """A training that was stopped, and how its plan is spoiled."""
    run_and_stop(tmp_path, 8)
    path = tmp_path / "plan.json"
    plan = json.loads(path.read_text())

    def spoil(damage):
        others = {name: value for name, value in plan.items() if name != "steps"}
        damaged = {"a digit": json.dumps(plan | {"steps": 90}), "no steps": json.dumps(others), "cut": '{"steps": 2'}
        path.unlink() if damage == "gone" else path.write_text(damaged[damage])

    return SimpleNamespace(folder=tmp_path, path=path, plan=plan, spoil=spoil)


@pytest.mark.parametrize("damage", ["a digit", "no steps", "cut", "gone"])
def test_a_damaged_plan_is_noticed_and_that_of_the_checkpoint_is_taken(whole, planned, damage, capsys):
    planned.spoil(damage)
    assert_same(whole, planned.folder, *run(planned.folder))
    assert json.loads(planned.path.read_text()) == planned.plan
    found = {"a digit": "is not the one in the checkpoint", "gone": "is missing"}.get(damage, "cannot be read")
    told = [line for line in capsys.readouterr().err.splitlines() if "plan.json" in line]
    assert told == [f"  {planned.path}: {found}; going on with that one of 20 steps"]


def of_an_earlier_version(folder):
    """Take the plan out of the checkpoints, and what is new out of the plan."""
    for file in folder.glob("step-*/checkpoint.json"):
        facts = json.loads(file.read_text())
        del facts["key"], facts["state"]["plan"]
        file.write_text(json.dumps(facts | {"key": key_of(facts)}))
    plan = json.loads((folder / "plan.json").read_text())
    del plan["threads"]
    (folder / "plan.json").write_text(json.dumps(plan))


def test_a_training_of_an_earlier_version_goes_on_by_its_plan(whole, planned, capsys):
    of_an_earlier_version(planned.folder)
    assert_same(whole, planned.folder, *run(planned.folder))
    said = capsys.readouterr().err
    assert "going on after step 8" in said and "plan.json" not in said and "threads" not in said


def test_a_plan_that_nothing_knows_is_told_with_what_keeps_the_checkpoints(whole, planned):
    of_an_earlier_version(planned.folder)
    planned.spoil("no steps")
    with pytest.raises(ArtifactError, match=r"plan\.json: cannot be read\. Delete this file: the same command plans"):
        run(planned.folder)
    planned.path.unlink()
    assert_same(whole, planned.folder, *run(planned.folder))


def test_another_number_of_threads_is_told(planned, capsys):
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        run_and_stop(planned.folder, 1)
    finally:
        torch.set_num_threads(threads)
    told = f"  by {threads + 1} threads, not {threads} as the training began: the same bits are no longer promised\n"
    assert told in capsys.readouterr().err


def test_loading_the_model_twice_is_part_of_a_budget_of_time(tmp_path, monkeypatch):
    passed, ticks = [], count()
    clock = SimpleNamespace(monotonic=lambda: next(ticks) / 10 + sum(passed))
    for module in (budget, loop):
        monkeypatch.setattr(module, "time", clock)

    def stop(**_):
        raise KilledError

    monkeypatch.setattr(loop, "_Run", stop)

    def steps(load_seconds):
        folder = tmp_path / str(load_seconds)
        settings = Train(budget="1000s", batch_tokens=120, max_tokens=64, checkpoint_seconds=1e6)
        with pytest.raises(KilledError):
            run(folder, settings, make=lambda: passed.append(load_seconds) or tiny_model())
        return json.loads((folder / "plan.json").read_text())["steps"]

    quick, slow = steps(0), steps(100)
    assert len(passed) == 4
    # 800 s are left of 1000, in which a step takes 0.1 s for its padded tokens
    assert slow / quick == pytest.approx(0.8, abs=0.01)


@pytest.fixture
def no_collector():
    """Only who asks for it frees what holds itself."""
    gc.disable()
    yield
    gc.enable()


def test_one_model_at_a_time_is_in_memory_while_a_budget_is_planned(tmp_path, no_collector):
    made = []

    def make():
        assert not any(model() for model in made), "the one before was not freed"
        model = tiny_model()
        model.owned = [model]  # as sharded models, and mixtures that route exactly, hold themselves
        made.append(weakref.ref(model))
        return model

    with stopped_before(1):
        run(tmp_path, Train(budget="500s", batch_tokens=120, max_tokens=64), make=make)
    assert len(made) == 2


def test_twice_the_budget_is_about_twice_the_steps(tmp_path, monkeypatch):
    clock = iter(range(10**9))
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: next(clock) / 10))
    coming = [collate(examples(8), 0)] * 6

    def steps(wish):
        settings = Train(budget=wish, batch_tokens=120, checkpoint_seconds=1000)
        return budget.plan_training(tmp_path / wish, tiny_model(), lambda: coming, coming[:1], settings).steps

    # A step, a validation and a checkpoint take 0.1 s each on this clock.
    assert steps("1000s") - steps("500s") == pytest.approx(5000, rel=0.01)
    assert steps("500s") == pytest.approx(4980, rel=0.01)


def test_a_budget_without_room_for_a_step_is_refused_with_one_that_has(tmp_path):
    with pytest.raises(SpecError, match=r"train\.budget: 0.001s has no room .* Write at least '\d+s'"):
        run(tmp_path, Train(budget="0.001s", batch_tokens=120, max_tokens=64))
    assert not (tmp_path / "plan.json").exists()


def test_a_message_names_the_key_of_the_table_that_the_settings_come_from(tmp_path):
    coming = [collate(examples(8), 0)] * 6
    settings = Pretrain(budget="0.001s")
    with pytest.raises(SpecError, match=r"pretrain\.budget: 0.001s has no room"):
        budget.plan_training(tmp_path / "plan.json", tiny_model(), lambda: coming, coming[:1], settings)


def test_a_training_without_examples_is_refused(tmp_path):
    with pytest.raises(DataError, match="no example is short enough"):
        train(tiny_model, [], examples(3), SETTINGS, 1e-3, tmp_path, pad=0, seed=0)


def test_checkpoints_that_take_long_come_less_often():
    assert budget.pause_between(60, 0.5) == budget.pause_between(60, 2) == 60
    assert budget.pause_between(60, 10) == 200


def test_a_model_that_changes_its_scores_after_the_output_matrix_is_refused():
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0}
    granite = GraniteForCausalLM(GraniteConfig(**sizes, **heads, logits_scaling=8.0))
    with pytest.raises(ArtifactError, match="base 'b': models of type 'granite' change their scores"):
        check_head(granite.eval(), "base 'b'")
    check_head(qwen().eval(), "base 'b'")
