"""A third domain and a learner of one's own need nothing of prefrl changed, and lose nothing."""

import json
from pathlib import Path

import pytest
import toy_bandit
import toy_learner

from prefrl.cli import main
from prefrl.config.experiment import Experiment
from prefrl.config.learning import FitConfig, QueryConfig
from prefrl.runs.load import load_reward
from prefrl.runs.session import resume, rounds, start
from prefrl.runs.train import train

EXPERIMENT = Experiment(
    env="toy_bandit:toy/Arms-v0", labels=40, steps=400, rounds=4,
    query=QueryConfig(explore_steps=100, decay_steps=400.0), fit=FitConfig(learning_rate=0.1),
)  # fmt: skip


@pytest.mark.parametrize("module", [toy_bandit, toy_learner])
def test_a_domain_of_ones_own_trains_resumes_replays_and_is_evaluated(module, tmp_path, capsys):
    folder = train(EXPERIMENT, tmp_path / "run", domain=module.DOMAIN)
    assert folder.card().domain == f"{module.__name__}:DOMAIN"
    returns = [line.get("true_return", 0) for line in folder.metrics()]
    assert returns[-1] > 3.5 > returns[1], "five pulls of the best arm are worth 4.5"

    session = start(EXPERIMENT, tmp_path / "killed", domain=module.DOMAIN)
    for done in rounds(session):
        if done.state == "done" and done.index == 2:
            break
    session.feedback.close()
    session = resume(tmp_path / "killed")
    assert [done.index for done in rounds(session) if done.state == "done"] == [3, 4]
    session.feedback.close()
    assert (tmp_path / "killed/metrics.jsonl").read_bytes() == (
        tmp_path / "run/metrics.jsonl"
    ).read_bytes()

    main(["replay", str(folder.path), "--run", str(tmp_path / "again")])
    assert "identical: 5 rounds" in capsys.readouterr().out
    main(["evaluate", str(folder.path), "--json"])
    assert json.loads(capsys.readouterr().out)["policy"]["true_return"]["mean"] == 4.5
    assert load_reward(folder.path).value.mean(0).argmax() == 1
    main(["compare", str(folder.path), str(folder.path), "--pairs", "4", "--into",
          str(tmp_path / "pairs")])  # fmt: skip
    assert "answered: 4 of 4 pairs, by oracle" in capsys.readouterr().out


def test_each_takes_less_than_eighty_lines_of_code():
    for module in (toy_bandit, toy_learner):
        lines = Path(module.__file__).read_text(encoding="utf-8").splitlines()
        code = [
            line for line in lines if line.strip() and not line.strip().startswith(("#", '"""'))
        ]
        assert len(code) < 80, f"{module.__name__} has {len(code)}"
