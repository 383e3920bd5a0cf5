"""The command line as a person meets it: help, output, mistakes answered in a sentence."""

import importlib
import io
import json
import os
import pty
import re
import subprocess
import sys
import tomllib
import warnings
from contextlib import closing, nullcontext
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import pytest
import toy_environments  # noqa: F401
from complaints import complaint
from processes import Process, command
from processes import run as run_it
from rich.console import Console
from test_experiment import TAUGHT, TRAIN

import prefrl.cli
import prefrl.runs.session
from prefrl.cli import main
from prefrl.commands import console, training
from prefrl.commands.progress import Display
from prefrl.commands.table import COMMANDS
from prefrl.config.fields import options
from prefrl.config.presets import PRESETS
from prefrl.errors import is_users_own, note
from prefrl.learning.loop import Round
from prefrl.pace import Pace
from prefrl.storage.feedback import Counts, FeedbackStore

ROOT = Path(__file__).resolve().parents[1]


def run(*words, **environment):
    return run_it(**command(words, **environment))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "finished"
    main([*TAUGHT, "--run", str(path)])
    return path


def processor_seconds(options):
    with subprocess.Popen(**options, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["list"]], ids=" ".join)
def test_help_version_and_list_are_quick(words):
    """Beside what they stand on, in turns: neighbours slow down the one as the other."""
    imports = command([], ("-c", "import gymnasium, tyro"))
    seconds = [(processor_seconds(command(words)), processor_seconds(imports)) for _ in range(3)]
    ours, theirs = map(min, zip(*seconds, strict=True))
    assert ours < 2 * theirs


@pytest.mark.parametrize(
    "words",
    [
        *([], ["--help"], ["--version"], ["list"]),
        *(["train", "--help"], ["resume", "--help"], ["train", "nonsense"]),
    ],
    ids=" ".join,
)
def test_what_needs_no_torch_imports_none(words):
    code = (
        "import sys\nfrom prefrl.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'stable_baselines3', 'mujoco') if m in sys.modules])"
    )
    done = subprocess.run(**command(words, ("-c", code)), capture_output=True, timeout=60)
    assert done.stdout.endswith("\n[]\n") or done.stdout == "[]\n", done.stdout + done.stderr


def test_help_names_every_command_and_what_it_does(capsys):
    main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    for name, (kind, _) in COMMANDS.items():
        assert any(line.split()[:1] == [name] and kind.__doc__ in line for line in lines)
    main([])
    assert capsys.readouterr().out.splitlines() == lines


def test_a_note_does_not_spoil_what_a_program_reads(finished, monkeypatch, capsys):
    def inspect_run(*_):
        note("this takes a while")
        return {"round": 1}

    monkeypatch.setattr("prefrl.reports.inspect.inspect_run", inspect_run)
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as for a user
        main(["inspect", str(finished), "--json"])
    said = capsys.readouterr()
    assert json.loads(said.out) == {"round": 1}
    assert said.err == "note: this takes a while\n"


def test_the_version_stands_once(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"prefrl {prefrl.__version__}\n"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"] and project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"]["attr"] == "prefrl.__version__"


def test_list_names_every_preset_and_environment(capsys):
    main(["list"])
    out = capsys.readouterr().out
    for name, preset in PRESETS.items():
        assert re.search(rf"^ +{name} +{re.escape(preset.about)}$", out, re.MULTILINE)
    for name in ("HalfCheetah", "Hopper", "HopperBackflip", "OneLeggedCheetah"):
        assert re.search(rf"^ +prefrl/{name}-v0 +\w+ \w+", out, re.MULTILINE)


SENTENCES = [
    ("train hopper --labels abc", "--labels is 'abc'; expected a whole number, 0 or more"),
    ("train hopper --labels=1.5", "--labels is '1.5'; expected a whole number, 0 or more"),
    ("train hopper --labels", "--labels has no value; expected a whole number, 0 or more"),
    ("train hopper --labels --seed 1", "--labels has no value; expected a whole number, 0 or more"),
    ("train hopper --ppo.gamma x", "--ppo.gamma is 'x'; expected a number from 0 to less than 1"),
    ("train hopper --ppo.batch_size x", "--ppo.batch-size is 'x'; expected a whole number above 0"),
    (
        "train hopper --reward real",
        "--reward is 'real', which is no folder here; expected learned, true, or "
        "the folder of a reward: one that `prefrl fit` made, or a run; or a judge: judge:FOLDER",
    ),
    ("train hopper --run", "--run has no value; expected None or a path"),
    ("evaluate", "prefrl evaluate needs RUN|MODEL; `prefrl evaluate --help` explains it"),
    ("evaluate r --episodes x", "--episodes is 'x'; expected a whole number"),
    (
        "sft --env E",
        "prefrl sft needs --model STR and -o FOLDER, --output FOLDER; `prefrl sft --help` "
        "explains it",
    ),
    ("fit r", "prefrl fit needs -o FOLDER, --output FOLDER; `prefrl fit --help` explains it"),
]


@pytest.mark.parametrize(("words", "sentence"), SENTENCES, ids=[words for words, _ in SENTENCES])
@pytest.mark.parametrize("columns", ["40", "120"])
def test_a_word_that_is_missing_or_is_no_value_is_a_sentence(
    words, sentence, columns, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"prefrl: {sentence}\n"


@pytest.mark.parametrize(
    ("preset", "others"),
    [("half-cheetah", r"--text\.|language model's"), ("random-walks", r"--ppo\.|--num-envs|robot")],
)
def test_every_option_of_train_is_explained_and_only_those_of_the_domain(
    preset, others, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "100")  # wider, and it comes in columns
    with pytest.raises(SystemExit) as ended:
        main(["train", preset, "--help"])
    assert not ended.value.code
    text = re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out)
    option = re.compile(
        r"^ *(--[\w.-]+)(?:, --[\w.-]+)?(?: (?:\{\S*|\[.*\]\]|[A-Z]+))? +(\w.*) \(default: .*\) *$",
        re.MULTILINE,
    )
    explained = {name: words for name, words in option.findall(re.sub(r"\s*\n {8,}", " ", text))}
    own = {f"--{option.name}" for option in options(PRESETS[preset].experiment)}
    assert {"--run", "--from", "--port", *own} - explained.keys() == set()
    assert all(len(words.split()) >= 3 for words in explained.values()), explained
    assert not re.search(others, text)


WRONG_OPTIONS = [
    (
        "--preset hopper",
        "there is no option --preset; it is given by itself, as in `prefrl train",
    ),
    ("half-cheetah --ppo.gama 1", "there is no option --ppo.gama; did you mean --ppo.gamma?"),
    ("half-cheetah --no-ppo.anneal", "--ppo.anneal says yes, --ppo.no-anneal no"),
    ("half-cheetah --ppo.anneal False", "no place for 'False'; --ppo.anneal says yes, --ppo.no-"),
    ("half-cheetah --ppo.anneal=False", "no place for 'False'; --ppo.anneal says yes, --ppo.no-"),
    ("half-cheetah --ppo_gamma 1", "there is no option --ppo-gamma; did you mean --ppo.gamma?"),
    ("half-cheetah --zzz=3", "no option --zzz; `prefrl train half-cheetah --help` shows what ther"),
    ("half-cheetah hopper", "there is no place for 'hopper'; `prefrl train half-cheetah --help`"),
    ("half-cheetah --ppo.gamma 1", "--ppo.gamma is 1.0; expected a number from 0 to less than 1"),
    ("half-cheetah --network.members 2", "--network.members is called --reward-model.members now"),
    ("half-cheetah --mistake .1", "--mistake is called --oracle.mistake now"),
    ("half-cheetah --query.clip-seconds 1", "clip-seconds is called --clip-seconds now"),
    ("random-walks --text.reward.members 2", "is called --text.reward-model.members now"),
    ("random-walks --mistake .1", "--mistake is called --oracle.mistake now"),
    (
        "random-walks --ppo.gamma .5",
        "--ppo.gamma is for robots, but prefrl/RandomWalks-v0 is an environment of text; use "
        "--text.ppo.gamma",
    ),
    ("random-walks --network.members 2", "text; use --text.reward-model.members"),
    ("random-walks --num-envs 2", "--num-envs is for robots, but .* of text; leave it out"),
    ("random-walks --query.clip-seconds 2", "is for robots, but .* of text; leave it out"),
    (
        "--env Pendulum-v1 --text.ppo.gamma .5",
        "--text.ppo.gamma is for language models, but Pendulum-v1 is an environment of numbers; "
        "use --ppo.gamma",
    ),
    ("--env=Pendulum-v1 --text.model x", "Pendulum-v1 is an environment of numbers; leave it out"),
    ("--text.model x", "--text.model is for language models; name one with --env ID"),
    ("--env texts/Missing-v0", "there is no environment 'texts/Missing-v0'"),
]


@pytest.mark.parametrize(("words", "sentence"), WRONG_OPTIONS, ids=[w for w, _ in WRONG_OPTIONS])
def test_a_wrong_option_of_train_is_a_sentence(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.search(sentence.replace("?", r"\?"), complaint(["train", *words.split()], capsys))
    assert not list(tmp_path.iterdir())


def test_a_mistyped_option_of_another_command_is_a_sentence(capsys):
    assert "no option --episods; did you mean --episodes?" in complaint(
        ["evaluate", "RUN", "--episods", "3"], capsys
    )
    assert "there is no place for 'B'" in complaint(["evaluate", "A", "B"], capsys)


def test_a_preset_is_a_default_that_options_change(monkeypatch, capsys, tmp_path):
    chosen = []
    monkeypatch.setattr(
        prefrl.runs.session, "start", lambda *given, name, **_: chosen.append([*given, name])
    )
    monkeypatch.setattr(training, "_run", lambda session, port, host: None)
    monkeypatch.chdir(tmp_path)
    words = "train half-cheetah --labels 9 --ppo.gamma 0.5 --ppo.hidden 5 6 --query.pool 3"
    main(words.split())
    experiment, path, name = chosen[0]
    preset = PRESETS["half-cheetah"].experiment
    assert (experiment.env, experiment.steps) == (preset.env, preset.steps)
    assert (experiment.labels, experiment.query.pool) == (9, 3)
    ppo = experiment.control.ppo
    assert (ppo.gamma, ppo.hidden) == (0.5, (5, 6))
    assert ppo.learning_rate == preset.control.ppo.learning_rate
    assert (path, name) == (None, "half-cheetah")
    main(["train", "--env", "toy_environments:toy/Pay-v0", "--run", "here"])
    assert chosen[1][0].env == "toy_environments:toy/Pay-v0" and chosen[1][1] == tmp_path / "here"


def test_the_console_script_is_this(capsys):
    (script,) = entry_points(group="console_scripts", name="prefrl")
    assert script.load() is main


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "half-cheeta"], r"no preset 'half-cheeta'; did you mean half-cheetah"),
        (["train", "--env", "Pendulm-v1"], r"'Pendulm-v1'; did you mean Pendulum-v1"),
        ([*TRAIN, "--labels", "0"], r"--labels is 0; expected a whole number above 0"),
        (
            [*TRAIN, "--teacher", "nonsense:thing"],
            r"teacher 'nonsense:thing': cannot import 'nonsense'",
        ),
        ([*TRAIN, "--run", "exists"], r"/exists exists already; .* `prefrl resume /.*exists`"),
        (["resume", "damaged"], r"damaged/config.json is damaged: .*; restore it"),
        (["resume", "missing"], r"missing is not a run folder .* made by `prefrl train`"),
    ],
    ids=lambda value: " ".join(value[:1] + value[-2:]) if isinstance(value, list) else "",
)
def test_a_mistake_is_answered_in_one_sentence_without_a_traceback(words, sentence, tmp_path):
    for name in ("exists", "damaged"):
        (tmp_path / name).mkdir()
    (tmp_path / "damaged" / "config.json").write_text('{"format": 1, ')
    done = run_it(**command(words), cwd=tmp_path)
    assert done.returncode == 2
    assert re.match(f"prefrl: .*{sentence}", done.stderr), done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged", "exists"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], "no command 'trian'; did you mean train"),
        (["qqqq"], "`prefrl --help` lists the commands"),
        (["train"], "name a preset .* or give --env"),
        (["plot"], "name at least one run folder"),
        (["evaluate", "RUN", "--episodes", "0"], "--episodes is 0"),
        (["video", "RUN", "-o", "film.avi"], "cannot write /.*film.avi: .* .mp4 or .gif"),
        (["video", "RUN", "--strip", "-o", "film.mp4"], "ends in .png"),
        (["plot", "RUN", "-o", "no/such/folder/curve.png"], "cannot write"),
        (["resume", "RUN"], "finished its 512 steps; add some with --steps"),
        (["resume", "RUN", "--labels", "9"], "finished its 512 steps; add some with --steps"),
        (["resume", "RUN", "--steps", "-9"], "add to a run; expected"),
        (["export", "/"], "is not a run folder"),
        (["import", "/", "/dev/null"], "is not a run folder"),
        (["import", "RUN", "no/such/file"], "cannot read /.*no/such/file: No such file"),
        (["import", "RUN", "/dev/null"], "null is empty; expected"),
        (["replay", "/"], "is not a run folder"),
        (["replay", "RUN", "--run", "RUN"], "exists already"),
        ([*TRAIN, "--run", "new", "--from", "/"], "is not a run folder"),
        ([*TRAIN, "--run", "new", "--from", "RUN", "--labels", "-1"], "--labels is -1"),
        ([*TRAIN, "--run", "new", "--from", "RUN", "--reward", "true"], "needs no answers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_other_mistakes(words, sentence, finished, capsys):
    words = [finished if word == "RUN" else word for word in words]
    assert re.search(sentence, complaint(words, capsys))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is damaged"),
        ("[1, 2]", "is damaged: expected a JSON object"),
        ('{"format": 99}', "another version of prefrl"),
        ('{"format": 1, "labls": 3}', "another version of prefrl .*no field labls"),
        ('{"format": 1, "fit": {"gama": 3}}', "another version of prefrl .*no field gama"),
        ('{"format": 1, "fit": 3}', "is damaged"),
    ],
)
@pytest.mark.parametrize("name", ["resume", "evaluate"])
def test_damaged_configuration(name, content, sentence, tmp_path, capsys):
    (tmp_path / "config.json").write_text(content)
    assert re.search(sentence, complaint([name, tmp_path], capsys))


def test_damaged_files_of_a_run(finished, tmp_path, capsys):
    for file in finished.rglob("*"):
        if file.is_file() and file.suffix != ".pt":
            copy = tmp_path / file.relative_to(finished)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(file.read_bytes())
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    assert "has not finished a round" in complaint(["evaluate", tmp_path], capsys)
    (tmp_path / "checkpoints" / "round-0004.pt").write_bytes(b"nonsense")
    assert "is damaged" in complaint(["resume", tmp_path], capsys)
    assert "is damaged" in complaint(["video", tmp_path], capsys)
    (tmp_path / "metrics.jsonl").write_text("nonsense\n")
    assert "metrics.jsonl is damaged" in complaint(["plot", tmp_path], capsys)
    (tmp_path / "feedback.sqlite").write_bytes(b"nonsense" * 1000)
    assert "feedback.sqlite is damaged" in complaint(["export", tmp_path], capsys)


def test_an_environment_that_breaks_is_answered_in_a_sentence(tmp_path, capsys):
    words = [*TRAIN, "--run", tmp_path / "run"]
    words[2] = "toy_environments:toy/NanReward-v0"
    assert "gave the reward nan; expected a finite float" in complaint(words, capsys)


def test_control_c_before_the_first_round(monkeypatch, capsys):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(prefrl.runs.session, "start", interrupt)
    assert complaint(TRAIN, capsys) == "prefrl: interrupted\n"


def test_in_a_pipe_every_round_is_a_plain_line(tmp_path, capsys):
    main([*TAUGHT, "--run", str(tmp_path / "run")])
    out, err = capsys.readouterr()
    assert err == ""
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", out)
    lines = out.splitlines()
    assert lines[0] == f"run folder: {tmp_path / 'run'}"
    assert [line.split(",")[0] for line in lines[1:6]] == [f"round {i}/4" for i in range(5)]
    assert all(re.search(r" \d+ steps.* labels \d+/16", line) for line in lines[1:6])
    assert re.search(
        r"512 steps, .* labels 16/16 \(32 clips\), out-of-bag accuracy [01]\.\d\d", lines[5]
    )
    film = r"`prefrl video .*run` if the environment draws itself"
    assert re.fullmatch(
        rf"done; look at it with `prefrl plot .*`, `prefrl evaluate .*`, {film}", lines[6]
    )
    assert len(lines) == 7


def test_after_a_run_of_text_only_what_works_is_recommended(tmp_path, capsys):
    path = tmp_path / "run"
    words = "train --env prefrl/RandomWalks-v0 --text.model tiny --reward true --rounds 1"
    words += " --steps 8 --query.explore-steps 8 --text.max-new-tokens 2 --text.ppo.episodes 4"
    words += f" --text.ppo.completions-per-task 2 --text.ppo.batch-size 4 --run {path}"
    main(words.split())
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"done; look at it with `prefrl evaluate {path} --show 3`"


def test_on_a_terminal_one_line_lives(tmp_path):
    ours, theirs = pty.openpty()
    options = command([*TAUGHT, "--run", tmp_path / "run"], TERM="xterm-256color", COLUMNS="120")
    process = Process(**options, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 4096):
            seen += chunk
    except OSError:  # how a terminal says that nobody writes to it any more
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 0
    text = seen.decode()
    assert re.search(r"\x1b\[\d*[AKG]|\r\x1b\[2K", text), "nothing was drawn over"
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert re.search(r"round 4/4, 512 steps.*labels 16/16", plain)
    assert "━" in plain  # the bar
    assert plain.rstrip().splitlines()[-1].startswith("done; look at it with")
    assert "\x1b[?25h" in text, "the cursor must come back"


def test_resumed_output_goes_on_where_it_stopped(tmp_path, capsys):
    path = str(tmp_path / "run")
    main([*TAUGHT, "--run", path])
    capsys.readouterr()
    main(["resume", path, "--steps", "+256", "--labels", "+4"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines[1:-1]] == ["round 5/6", "round 6/6"]
    assert "labels 20/20" in lines[-2]


def test_a_run_that_cannot_be_resumed_exactly_says_so(monkeypatch, capsys, tmp_path):
    words = [*TRAIN, "--run", str(tmp_path / "run")]
    words[2] = "toy_environments:toy/Random-v0"
    main(words)
    assert "is not deterministic: a resumed run goes on, but not exactly" in capsys.readouterr().out


def test_waiting_is_said_once_and_then_what_came_of_it(capsys):
    waiting = Round(1, "waiting", Counts(9, 3, 3, 6))
    done = Round(1, "done", Counts(9, 9, 9, 0, 18, 400.0), {"steps": 640, "true_return": 1.25})
    with Display(rounds=4, steps=2560, labels=20, first_round=0) as display:
        for shown in (waiting, waiting, waiting, done, waiting):
            display.show(shown)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[2] == "round 1: waiting for 6 answers"
    assert lines[1] == (
        "round 1/4, 640 steps, – steps/s, labels 9/20 (18 clips), out-of-bag accuracy –, "
        "true return 1.2, – left"
    )
    assert len(lines) == 3


def test_what_goes_wrong_is_said_once_with_what_to_do(capsys):
    well = {"steps": 64, "kl": 2.0, "tokens": 20.0, "finished": 0.9, "alike": 0.4}
    wrong = well | {"steps": 128, "kl": 30.0, "finished": 0.2, "alike": 0.8}
    with Display(rounds=4, steps=256, labels=60, first_round=0) as display:
        display.show(Round(1, "done", Counts(30, 30, 16, 0, 60), well))
        fine = capsys.readouterr().out
        for index in (2, 3):
            display.show(Round(index, "done", Counts(60, 60, 29, 0, 120), wrong))
    assert "note" not in fine and "labels 30/60 (60 clips, 16 decisive), " in fine
    assert ", KL 2.0, replies that end 90%, " in fine
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert sorted(notes) == [
        "note: 31 of 60 answers prefer neither side, and teach little; raise --text.temperature, "
        "or let somebody answer who sees finer differences",
        "note: of two replies to the same task 80% are the same text, which nobody is asked about; "
        "raise --text.temperature, allow longer replies (--text.max-new-tokens), or raise "
        "--text.ppo.ent-coef",
        "note: replies stop ending: 20% do, 90% did at first; raise "
        "--text.ppo.missing-end-penalty or --text.max-new-tokens",
        "note: the policy is 30 nats from the model that it began as, 1.5 a token, where the "
        "learned reward has hardly been asked about anything; raise --text.ppo.kl-coef, lower "
        "--text.ppo.learning-rate, or set --text.ppo.kl-target",
    ]


def test_what_goes_on_within_a_round_is_told_once_a_minute(monkeypatch, capsys):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("prefrl.commands.progress.time.monotonic", lambda: clock.now)
    with Display(rounds=4, steps=10_000, labels=0, first_round=0) as display:
        pace = Pace("PPO", 40)
        for _ in range(7):
            clock.now += 10
            pace.step()
        display.show(Round(0, "done", Counts(0, 0, 0, 0), {"steps": 0}))
        clock.now += 50
        pace.step()
    pace.step()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "PPO: step 6/40, 5:40 left"
    assert lines[1].startswith("round 0/4") and len(lines) == 2


def test_what_goes_on_within_a_round_goes_before_the_live_line(monkeypatch):
    display = Display(rounds=4, steps=10_000, labels=0, first_round=0)
    display.console = Console(file=io.StringIO(), force_terminal=True)
    with display:
        assert display.progress is not None
        Pace("PPO", 40).step()
        assert re.fullmatch("PPO: step 1/40, .* left; round 0 of 4", live_text(display))
        display.show(Round(0, "done", Counts(0, 0, 0, 0), {"steps": 0}))
        assert live_text(display).startswith("round 0/4, ")


def live_text(display):
    return display.progress.tasks[0].description


def test_speed_and_time_left(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("prefrl.commands.progress.time.monotonic", lambda: clock.now)
    display = Display(rounds=4, steps=10_000, labels=0, first_round=0)
    with display:
        display.show(Round(0, "done", Counts(0, 0, 0, 0), {"steps": 0}))
    clock.now += 4
    line = display.line(Round(1, "done", Counts(0, 0, 0, 0), {"steps": 400}))
    assert line == "round 1/4, 400 steps, 100 steps/s, true return –, 1:36 left"
    flips = {"steps": 400, "true_return": 7.0, "clean_flips": 0.5}
    with_flips = display.line(Round(1, "done", Counts(0, 0, 0, 0), flips))
    assert with_flips.endswith(", true return 7.0, clean flips 0.50, 1:36 left")
    without = display.line(Round(1, "done", Counts(0, 0, 0, 0), {"steps": 400}))
    assert without.endswith(", true return –, clean flips –, 1:36 left")


def test_answers_go_from_run_to_run(finished, tmp_path, capsys):
    main(["export", str(finished)])
    (tmp_path / "finished.jsonl").write_text(capsys.readouterr().out)
    path = str(tmp_path / "run")
    main([*TAUGHT, "--run", path])
    capsys.readouterr()
    main(["import", path, str(tmp_path / "finished.jsonl")])
    said = (
        "imported 16 answers to 16 queries; the next round that begins learns from them\n"
        "took finished.jsonl for JSON lines: answers of `prefrl export` (16)\n"
    )
    assert capsys.readouterr().out == said
    assert "finished: " in complaint(["import", path, tmp_path / "finished.jsonl"], capsys)
    clip = json.loads((tmp_path / "finished.jsonl").read_text().splitlines()[0])["segments"][0]
    (tmp_path / "best.jsonl").write_text(json.dumps({"segment": clip}) + "\n")
    main(["import", path, str(tmp_path / "best.jsonl"), "--demonstrations"])
    assert capsys.readouterr().out.startswith("imported 1 answers to 1 queries;")
    main(["resume", path, "--steps", "+128"])
    with closing(FeedbackStore(tmp_path / "run" / "feedback.sqlite")) as store:
        assert len(store.comparisons(store.ledger(5).answers_through)) == 16 + 16 + 1


@pytest.mark.parametrize(
    ("env", "teacher", "note"),
    [
        ("Unseen", "human", "RuntimeError: the canvas is torn"),
        ("Blind", "human", "without pictures: toy/Blind-v0 draws no pictures"),
        ("Pay", "human", ""),
        ("Unseen", "oracle", ""),
    ],
)
def test_people_are_told_at_once_if_there_will_be_no_pictures(
    env, teacher, note, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("prefrl.runs.session.rounds", lambda session: iter(()))
    monkeypatch.setattr("prefrl.runs.page.page", lambda *arguments: nullcontext())
    words = [*TRAIN, "--teacher", teacher, "--run", str(tmp_path / "run")]
    words[2] = f"toy_environments:toy/{env}-v0"
    main(words)
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert len(notes) == bool(note) and note in "".join(notes)


def test_a_run_from_the_answers_of_another(finished, tmp_path, capsys):
    path = tmp_path / "run"
    main([*TRAIN, "--labels", "0", "--run", str(path), "--from", str(finished)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 and "out-of-bag accuracy" in lines[2] and "labels" not in lines[2]
    main(["export", str(finished)])
    (tmp_path / "run.jsonl").write_text(capsys.readouterr().out)
    again = [*TRAIN, "--labels", "0", "--run", str(tmp_path / "again")]
    main([*again, "--from", str(tmp_path / "run.jsonl")])
    assert "took run.jsonl for JSON lines: answers of `prefrl export` (16)" in (
        capsys.readouterr().out
    )
    same = [(folder / "metrics.jsonl").read_bytes() for folder in (path, tmp_path / "again")]
    assert same[0] == same[1], "an export teaches what its run does"
    refused = [*TRAIN, "--run", tmp_path / "other", "--from", finished]
    refused[2] = "CartPole-v1"
    assert "an environment of the same spaces alone" in complaint(
        [*refused, "--clip-seconds", "0.1"], capsys
    )
    assert not (tmp_path / "other").exists()


def test_a_replayed_run_is_identical(finished, tmp_path, capsys):
    path = tmp_path / "run"
    main([*TAUGHT, "--run", str(path)])
    capsys.readouterr()
    main(["replay", str(path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"run folder: {tmp_path / 'run-replay'}"
    assert [line.split(",")[0] for line in lines[1:6]] == [f"round {i}/4" for i in range(5)]
    assert lines[6:] == ["identical: 5 rounds"]
    metrics = [p / "metrics.jsonl" for p in (path, tmp_path / "run-replay")]
    assert metrics[0].read_bytes() == metrics[1].read_bytes()


def test_a_replay_of_an_older_version_is_compared_in_what_that_reported(tmp_path, capsys):
    path = tmp_path / "run"
    main([*TAUGHT, "--run", str(path)])
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for line in lines[:3]:  # then it was resumed
        del line["clips"]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    main(["replay", str(path)])
    assert "identical: 5 rounds" in capsys.readouterr().out


def spoiled(path):
    """Give a run other numbers on record than it had; return what round 2's loss was."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    lines[2]["train_loss"], was = 0.25, lines[2]["train_loss"]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return was


def replayed_otherwise(path, into, capsys):
    """Replay a run that differs; return what was printed, and as an error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["replay", str(path), "--run", str(into)])
    assert ended.value.code == 1
    return capsys.readouterr()


def test_a_replay_that_differs_names_the_round_the_number_and_the_versions(tmp_path, capsys):
    path = tmp_path / "run"
    main([*TAUGHT, "--run", str(path)])
    was = spoiled(path)
    versions = json.loads((path / "versions.json").read_text())
    (path / "versions.json").write_text(json.dumps(versions | {"torch": "0.0.1"}))
    out, err = replayed_otherwise(path, tmp_path / "again", capsys)
    cause = "it was made with other versions, as the notes say"
    assert err == f"prefrl: round 2 differs: train_loss was 0.25, is {was}; {cause}\n"
    assert out.splitlines()[-1] == f"note: torch was 0.0.1, is {versions['torch']}"
    assert "round 2/4" in out and "round 3/4" not in out
    (path / "versions.json").write_text(json.dumps(versions))
    begun = (path / "starts.jsonl").read_text()
    here = versions["cpu_capability"]
    (path / "starts.jsonl").write_text(begun + begun.replace(f'"{here}"', '"OLD"'))
    out, err = replayed_otherwise(path, tmp_path / "elsewhere", capsys)
    assert err.endswith("; it was made on another CPU, as the notes say\n")
    assert out.splitlines()[-1] == f"note: cpu_capability was OLD, is {here}"
    (path / "starts.jsonl").write_text(begun)
    out, err = replayed_otherwise(path, tmp_path / "third", capsys)
    assert "are the same and toy_environments:toy/Pay-v0 repeated an episode in a trial" in err
    assert "note:" not in out


def test_a_replay_of_what_is_not_deterministic_says_so(tmp_path, capsys):
    words = [*TRAIN, "--run", str(tmp_path / "run")]
    words[2] = "toy_environments:toy/Random-v0"
    main(words)
    out, err = replayed_otherwise(tmp_path / "run", tmp_path / "again", capsys)
    assert re.match(r"prefrl: round 1 differs: \w+ was \S+, is \S+ \(and \d+ more numbers\)", err)
    assert err.endswith("toy/Random-v0 is the likely cause, as the note says\n")
    assert "note: toy/Random-v0 is not deterministic" in out


def test_export_into_a_pipe_that_closes_is_quiet(finished):
    options = command(["export", finished])
    process = Process(**options, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert json.loads(process.stdout.readline())["index"] == 0
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait(timeout=60)


def test_importing_prefrl_and_its_environments_is_light():
    code = (
        "import sys, prefrl, prefrl.envs\n"
        "assert not {'torch', 'mujoco', 'stable_baselines3'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- warnings ---------------------------------------------------------------------------------

DEPENDENCY = """
import warnings

warnings.simplefilter("always")  # some do this to their own

def warn(stacklevel):
    for kind in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
        warnings.warn(f"{kind.__name__} at {stacklevel}", kind, stacklevel=stacklevel)
"""
USERS_OWN = """
import warnings

import gymnasium as gym
from dependency import warn
from transformers.utils import logging

class Broken(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self):
        warn(1)  # about the dependency itself
        warn(2)  # about this line
        warnings.warn_explicit("from a frozen module", FutureWarning, "<frozen importlib>", 1)
        logging.get_logger("transformers.models").warning("logged by transformers")
        warnings.warn("not a deprecation")
        raise RuntimeError("and then it broke")

gym.register("Broken-v0", Broken)
"""
FROM_A_DEPENDENCY = [
    "DeprecationWarning at 1", "PendingDeprecationWarning at 1", "FutureWarning at 1",
    "from a frozen module", "logged by transformers",
]  # fmt: skip
OF_THE_USERS_OWN = [
    "DeprecationWarning at 2", "PendingDeprecationWarning at 2", "FutureWarning at 2",
    "not a deprecation",
]  # fmt: skip


def warned(tmp_path, **environment):
    """Return what the command line says of an environment that warns, and so does what it uses."""
    installed = tmp_path / "lib" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "dependency.py").write_text(DEPENDENCY)
    (tmp_path / "own.py").write_text(USERS_OWN)
    paths = os.pathsep.join([str(tmp_path), str(installed), os.environ.get("PYTHONPATH", "")])
    words = ["train", "--env", "own:Broken-v0", "--run", tmp_path / "run", "--labels", 8]
    start = command(words, PYTHONPATH=paths, **environment)  # a new interpreter shows warnings
    done = subprocess.run(**start, capture_output=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("prefrl: ") and "own.py:" in done.stderr
    return [words for words in FROM_A_DEPENDENCY + OF_THE_USERS_OWN if words in done.stderr]


def test_a_deprecation_inside_a_dependency_never_reaches_a_terminal(tmp_path):
    assert warned(tmp_path) == OF_THE_USERS_OWN


def test_who_asks_python_for_warnings_gets_them_all(tmp_path):
    asked = {"PYTHONWARNINGS": "default", "TRANSFORMERS_VERBOSITY": "warning"}
    assert warned(tmp_path, **asked) == FROM_A_DEPENDENCY + OF_THE_USERS_OWN


def test_a_deprecation_about_prefrls_own_code_is_not_for_its_user():
    envs = importlib.import_module("prefrl.envs")
    for module in (prefrl.cli, envs, os, pytest):
        assert not is_users_own(module.__file__), module
    assert is_users_own(__file__)


def test_in_tests_a_deprecation_stays_an_error():
    with pytest.raises(FutureWarning), console.without_deprecations_of_dependencies():
        warnings.warn("of a dependency", FutureWarning, stacklevel=1)


# What is printed


ESCAPES = (
    "clear \x1b[2J\x1b]0;title\x07 it\r\n\tback\b \x9b1m \u202eback \u2028 \x00\x7f "
    "donn\udce9es \ud800"
)


def test_nothing_printed_is_obeyed_by_a_terminal(capsys):
    shown = (
        r"clear \x1b[2J\x1b]0;title\x07 it\r"
        "\n\tback"
        r"\x08 \x9b1m \u202eback \u2028 \x00\x7f donn\xe9es \ud800"
    ).replace(r"\r", r"\x0d")
    assert console.printable(ESCAPES) == shown
    assert console.printable("Grüße, 世界 👩‍👩‍👧 שלום") == "Grüße, 世界 👩‍👩‍👧 שלום"
    console.say("one", ESCAPES)
    console.complain(ESCAPES)
    console.remark(ESCAPES)
    with console.live_line() as show:
        show(ESCAPES, True)
    printed = capsys.readouterr()
    assert (
        printed.out == f"one\n{shown}\n{shown}\n" and printed.err == f"prefrl: {shown}\n{shown}\n"
    )


def test_commands_print_through_one_function():
    """What is printed elsewhere would not be made safe for a terminal."""
    folder = Path(console.__file__).parent
    found = {p.name: p.read_text(encoding="utf-8").count(" print(") for p in folder.glob("*.py")}
    assert {name: count for name, count in found.items() if count} == {
        "answers.py": 1,  # JSON, which is ASCII
        "console.py": 4,
        "table.py": 2,  # words of our own
        "text.py": 1,  # JSON again
    }
