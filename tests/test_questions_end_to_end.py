"""From a table of facts to a folder that is passed on: the whole road of a job of questions, in fresh processes."""

import json
import os
import subprocess
import sys

import pytest
from facts_of_our_own import write_facts_job


def metier(home, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "metier", *map(str, arguments)],
        env=os.environ | {"METIER_HOME": str(home), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.timeout(600)
def test_a_table_of_facts_becomes_a_model_and_another_risk_repeats_no_step_of_data(tmp_path):
    job, home = write_facts_job(tmp_path / "job", budget="60 steps"), tmp_path / "home"
    planned = metier(home, "plan", job)
    assert planned.returncode == 0 and "lore" in planned.stdout, planned.stderr
    done = metier(home, "build", job)
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
    run = home / "runs" / "lore"
    assert (run / "data" / "facts.db").is_file()
    for part in ("validation", "test", "validation_unknown", "test_unknown"):
        rows = (run / "data" / f"{part}.jsonl").read_text().splitlines()
        assert len(rows) == len((run / "data" / f"{part}_about.jsonl").read_text().splitlines()) > 19
    ledger = json.loads((run / "export" / "ledger.json").read_text())
    assert ledger["shipping"]["allowed"] and ledger["sources"][0]["role"] == "facts"
    assert list((run / "export").glob("*.gguf"))
    (job / "job.toml").write_text((job / "job.toml").read_text().replace("[qa]", "[qa]\nrisk = 0.2"))
    again = metier(home, "build", job)
    assert "data: already finished" in again.stderr and "train: already finished" in again.stderr, again.stderr
