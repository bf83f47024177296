"""The loop: the same numbers every time, also after a kill, within the budget it was given."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from metier.errors import DataError, SpecError
from metier.model.scratch import scratch
from metier.spec.job import Train
from metier.train import budget, loop
from metier.train.batches import Example, collate
from metier.train.loop import train

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


def run(folder, settings=SETTINGS):
    folder.mkdir(parents=True, exist_ok=True)
    return train(tiny_model, examples(90), examples(100)[90:], settings, 3e-3, folder, seed=5)


def losses(folder):
    lines = (folder / "steps.jsonl").read_text().splitlines()
    return [(line["step"], line["loss_nats"], line["grad_norm"]) for line in map(json.loads, lines)]


def run_and_stop(folder, step, settings=SETTINGS):
    """Run until the loop's update, which raises before it makes this step."""
    made, update = iter(range(10**6)), loop.update

    def update_or_stop(*args):
        if next(made) == step:
            raise KilledError
        return update(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "update", update_or_stop)
        with pytest.raises(KilledError):
            run(folder, settings)


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


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_checkpoint_is_not_used_and_the_one_before_is(whole, tmp_path, file, damage, capsys):
    run_and_stop(tmp_path, 8)
    newest = max(tmp_path.glob("step-????????"))
    assert newest.name == "step-00000008"
    data = (newest / file).read_bytes()
    if damage == "gone":
        (newest / file).unlink()
    else:
        (newest / file).write_bytes(data[:-9] if damage == "cut" else data[:-9] + b"\xff" + data[-8:])
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


def test_a_training_killed_from_outside_ends_with_the_same_bits(whole, tmp_path):
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n" + (
        "import time, torch; from pathlib import Path; import test_train_loop as t; from metier.train import loop\n"
        "torch.set_num_threads(1); update = loop.update\n"
        "loop.update = lambda *args: (time.sleep(0.05), update(*args))[1]\n"
        "t.run(Path(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (tmp_path / "step-00000006").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(losses_whole_lines(tmp_path)) < STEPS
    assert_same(whole, tmp_path, *run(tmp_path))


def losses_whole_lines(folder):
    return [line for line in (folder / "steps.jsonl").read_text().splitlines(keepends=True) if line.endswith("\n")]


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


def test_a_wall_clock_budget_becomes_steps_once(tmp_path, monkeypatch):
    settings = Train(budget="3s", batch_tokens=120, max_tokens=64)
    coming = [collate(examples(8), 0)] * 6
    plan = budget.plan_training(tmp_path / "plan.json", tiny_model(), coming, coming[:1], settings)
    assert plan.steps >= 5
    assert json.loads((tmp_path / "plan.json").read_text())["steps"] == plan.steps
    assert not (tmp_path / "probe").exists()
    monkeypatch.setattr(budget, "_probe", lambda *_: pytest.fail("probed again"))
    assert budget.plan_training(tmp_path / "plan.json", tiny_model(), coming, coming[:1], settings) == plan


def test_twice_the_budget_is_about_twice_the_steps(tmp_path, monkeypatch):
    clock = iter(range(10**9))
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: next(clock) / 10))
    coming = [collate(examples(8), 0)] * 6

    def steps(wish):
        settings = Train(budget=wish, batch_tokens=120, checkpoint_seconds=1000)
        return budget.plan_training(tmp_path / wish, tiny_model(), coming, coming[:1], settings).steps

    # A step, a validation and a checkpoint take 0.1 s each on this clock.
    assert steps("1000s") - steps("500s") == pytest.approx(5000, rel=0.01)
    assert steps("500s") == pytest.approx(4980, rel=0.01)


def test_a_budget_without_room_for_a_step_is_refused_with_one_that_has(tmp_path):
    with pytest.raises(SpecError, match=r"train.budget: 0.001s has no room .* Write at least '\d+s'"):
        run(tmp_path, Train(budget="0.001s", batch_tokens=120, max_tokens=64))
    assert not (tmp_path / "plan.json").exists()


def test_a_training_without_examples_is_refused(tmp_path):
    with pytest.raises(DataError, match="no example is short enough"):
        train(tiny_model, [], examples(3), SETTINGS, 1e-3, tmp_path, seed=0)
