"""What a run has to show: evaluation, export, video, learning curve."""

import dataclasses
import json
import shutil
import subprocess
from contextlib import closing

import imageio.v3 as imageio
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageSequence
from toy_environments import HORIZON, prefer_larger, tiny

from prefrl.cli import main
from prefrl.config.control import PPOConfig
from prefrl.config.learning import QueryConfig
from prefrl.contracts import EvaluationRequest
from prefrl.control.environments.adapters import make_environments
from prefrl.errors import UserError
from prefrl.reports.film import VIDEO_SIZE, film_run
from prefrl.reports.plot import plot_runs, restarts
from prefrl.runs.evaluate import evaluate_run
from prefrl.runs.load import load_policy
from prefrl.runs.train import train
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.types import Answer, QueryId


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return train(tiny(seed=3), tmp_path_factory.mktemp("toy") / "run", teacher=prefer_larger)


@pytest.fixture(scope="module")
def cheetah(tmp_path_factory):
    experiment = tiny(
        env="prefrl/HalfCheetah-v0", horizon=20, reward="true", steps=128, rounds=1,
        ppo=PPOConfig(n_steps=32, n_epochs=1, batch_size=64),
        clip_seconds=0.5, query=QueryConfig(explore_steps=128),
    )  # fmt: skip
    return train(experiment, tmp_path_factory.mktemp("cheetah") / "run")


def test_what_people_answered_is_told_with_the_minutes_it_took(toy, tmp_path, capsys):
    folder = RunFolder(shutil.copytree(toy.path, tmp_path / "run"))
    folder.save_experiment(dataclasses.replace(folder.experiment(), teacher="human"))
    with closing(FeedbackStore(folder.feedback)) as store:
        for index, seconds in enumerate([20.0, 40.0, 9000.0]):  # the last with a pause
            store.answer(Answer(QueryId(0, index), "tie", {}, "anna", 0.0, seconds))
    labels = evaluate_run(folder, EvaluationRequest(1))["labels"]
    assert labels.pop("minutes") == 3.0
    assert labels == {"asked": 16, "answered": 16, "decisive": 16, "clips": 32}
    words = said(["evaluate", folder.path, "--episodes", "1"], capsys)
    assert "labels: 16 answered of 16 asked, 32 clips watched, 3 minutes\n" in words


def said(words, capsys):
    capsys.readouterr()
    main([str(word) for word in words])
    return capsys.readouterr().out


def test_evaluate_prints_what_a_comparison_needs(toy, capsys):
    out = said(["evaluate", toy.path, "--episodes", "6", "--json"], capsys)
    report = json.loads(out)
    assert out.count("\n") == 1
    assert " ".join(report) == (
        "env steps seed reward labels episodes policy reference gain kl asked_gap win_rate "
        "length_controlled ties skips teacher held_out notes completions"
    )
    assert [*report["labels"]] == ["asked", "answered", "decisive", "clips"]
    assert [*report["policy"]["true_return"]] == ["mean", "std"]
    assert (report["env"], report["steps"], report["seed"]) == ("toy/Pay-v0", 512, 3)
    assert (report["reward"], report["episodes"]) == ("learned", 6)
    assert report["labels"] == {"asked": 16, "answered": 16, "decisive": 16, "clips": 32}
    assert report["policy"]["info"].keys() == {"push"}
    # Fresh episodes of the bare environment, with the most probable action.
    environments = make_environments("toy/Pay-v0", 6, 1_000_003 + 3)
    policy, observations, returns = load_policy(toy.path), environments.reset(), np.zeros(6)
    for _ in range(HORIZON):
        step = environments.step(policy.predict(observations))
        observations, returns = step.observations, returns + step.env_rewards
    expected = {"mean": pytest.approx(returns.mean()), "std": pytest.approx(returns.std())}
    assert report["policy"]["true_return"] == expected
    assert report["reference"] is None and report["win_rate"] is None
    words = said(["evaluate", toy.path, "--episodes", "6"], capsys)
    assert f"true return: {returns.mean():.1f} ± {returns.std():.1f} over 6 episodes" in words
    assert "labels: 16 answered of 16 asked, 32 clips watched\n" in words


def test_evaluation_changes_nothing_and_repeats_itself(toy):
    before = {p: p.read_bytes() for p in toy.path.rglob("*") if p.suffix in (".pt", ".jsonl")}
    one, other = evaluate_run(toy, EvaluationRequest(5)), evaluate_run(toy, EvaluationRequest(5))
    assert one == other
    assert before == {p: p.read_bytes() for p in before}
    sampled = evaluate_run(toy, EvaluationRequest(5, sample=True))
    assert sampled["policy"] != one["policy"]
    assert sampled == evaluate_run(toy, EvaluationRequest(5, sample=True))
    with pytest.raises(UserError, match=r"--episodes is -1"):
        evaluate_run(toy, EvaluationRequest(-1))


def test_export_prints_an_answer_a_line(toy, capsys):
    lines = [json.loads(line) for line in said(["export", toy.path], capsys).splitlines()]
    assert [(line["round"], line["index"]) for line in lines] == [
        (round_, index) for round_ in range(4) for index in range(4)
    ]
    assert [*lines[0]] == [
        "env", "round", "index", "query_kind", "question", "segments", "kind", "value", "teacher",
        "shown_at", "answered_at", "repeat", "uuid",
    ]  # fmt: skip
    comparisons = FeedbackStore(toy.feedback).comparisons()
    for line, comparison in zip(lines, comparisons, strict=True):
        left, right = line["segments"]
        assert line["value"] == {"left": comparison.preference}
        assert line["value"]["left"] == (np.mean(left["actions"]) > np.mean(right["actions"]))
        assert left["observations"] == comparison.left.observations.tolist()
        assert right["id"] == comparison.right.id
        assert line["answered_at"] >= line["shown_at"] > 1e9
        assert "reward" not in json.dumps(line)


def read_film(path):
    """Return the frames and how many seconds they last."""
    if path.suffix == ".mp4":
        ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-pix_fmt", "rgb24"]
        done = subprocess.run([*ffmpeg, "-f", "rawvideo", "-"], capture_output=True, check=True)
        width, height = VIDEO_SIZE
        frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
        return frames, imageio_ffmpeg.count_frames_and_secs(path)[1]
    with Image.open(path) as gif:
        shown = [
            (np.asarray(f.convert("RGB")), f.info["duration"]) for f in ImageSequence.Iterator(gif)
        ]
    return np.stack([frame for frame, _ in shown]), sum(duration for _, duration in shown) / 1000


@pytest.mark.parametrize("name", ["video.mp4", "video.gif"])
def test_video_of_a_mujoco_run(name, cheetah, tmp_path, capsys):
    output = tmp_path / name
    assert said(["video", cheetah.path, "-o", output], capsys).strip() == str(output)
    frames, seconds = read_film(output)
    assert len(frames) >= 10 and frames.shape[3] == 3
    assert seconds == pytest.approx(20 * 0.05, abs=0.1)  # as long as the episode
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 0.5  # and something moves


def test_strip_of_a_mujoco_run(cheetah, capsys):
    said(["video", cheetah.path, "--strip"], capsys)
    picture = imageio.imread(cheetah.path / "strip.png")
    assert picture.ndim == 3 and picture.std() > 5


def test_another_start_is_another_film(cheetah, tmp_path):
    pictures = []
    for index, episode in enumerate((0, 0, 1)):
        film_run(cheetah, tmp_path / f"{index}.png", strip=True, episode=episode)
        pictures.append((tmp_path / f"{index}.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_video_of_an_environment_that_draws_itself(toy, tmp_path):
    film_run(toy, tmp_path / "toy.gif")
    frames, _ = read_film(tmp_path / "toy.gif")
    # The toy paints three more columns white in every step: frames are in order, from the start.
    white = (frames[..., 0] > 128).mean((1, 2))
    assert white[0] < 0.1 < 0.8 < white[-1] and (np.diff(white) >= 0).all()


def test_an_environment_that_draws_nothing_is_refused_in_a_sentence(tmp_path):
    path = train(tiny(env="toy/Blind-v0"), tmp_path / "run").path
    with pytest.raises(UserError, match="draws no pictures"):
        film_run(RunFolder(path), tmp_path / "toy.gif")
    assert not (tmp_path / "toy.gif").exists()


def test_plot_of_two_seeds_is_one_line_in_a_band(toy, tmp_path, monkeypatch, capsys):
    from matplotlib.axes import Axes

    other = train(tiny(seed=4), tmp_path / "other", teacher=prefer_larger)
    true = train(tiny(seed=4, reward="true"), tmp_path / "true")
    lines, bands = [], []
    plot, fill = Axes.plot, Axes.fill_between
    monkeypatch.setattr(Axes, "plot", lambda *a, **k: [lines.append((a, k)), plot(*a, **k)][1])
    monkeypatch.setattr(Axes, "fill_between", lambda *a, **k: [bands.append(a), fill(*a, **k)][1])
    output = tmp_path / "curve.png"
    words = ["plot", toy.path, other.path, true.path, "-o", output]
    assert said(words, capsys).strip() == str(output)
    assert imageio.imread(output).std() > 1
    values = np.array([[line["true_return"] for line in run.metrics()[1:]] for run in (toy, other)])
    (both, labels), (alone, _) = lines
    np.testing.assert_array_equal(both[1], [128, 256, 384, 512])
    np.testing.assert_allclose(both[2], values.mean(0))
    np.testing.assert_allclose(bands[0][2:4], [values.min(0), values.max(0)])
    assert len(bands) == 1
    assert labels["label"] == "toy/Pay-v0, 16 labels (2 seeds)"
    np.testing.assert_allclose(alone[2], [line["true_return"] for line in true.metrics()[1:]])
    assert lines[1][1]["label"] == "toy/Pay-v0, true reward"


def test_runs_that_differ_in_more_than_seed_are_lines_apart(toy, tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    lines, plot = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda *a, **k: [lines.append(a), plot(*a, **k)][1])
    other = train(tiny(seed=4, rounds=2), tmp_path / "other", teacher=prefer_larger)
    plot_runs([toy, other], tmp_path / "curve.png")
    assert [line[1].tolist() for line in lines] == [[128, 256, 384, 512], [256, 512]]


def test_a_plot_marks_where_the_policy_began_anew():
    made = [(32, 40), (64, 72), (96, 32), (128, 64)]  # of all steps, and of this policy's
    lines = [{"steps": steps, "policy_steps": own} for steps, own in made]
    assert restarts(lines) == [64]
    assert restarts([{"steps": steps} for steps, _ in made]) == []


def test_plot_of_one_run_lies_in_its_folder(toy, capsys):
    output = toy.path / "learning-curve.png"
    assert said(["plot", toy.path], capsys).strip() == str(output)
    assert output.exists()
