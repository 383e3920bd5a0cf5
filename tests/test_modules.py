"""Modules of the user's own: found from the working folder, their faults told in a sentence."""

import re
import sys

import gymnasium
import pytest
from complaints import complaint
from test_experiment import TRAIN

from prefrl.environments.ids import make, resolve
from prefrl.environments.modules import import_module, load_object
from prefrl.errors import UserError, raised_by

BROKEN = {
    "my_syntax": ("def f(:\n    pass\n", r"SyntaxError: invalid syntax \(my_syntax.py:1\)"),
    "my_import": ("from math import no_such\n", r"ImportError: cannot import name .*import.py:1\)"),
    "my_name": ("\n\nnothing\n", r"NameError: name 'nothing' is not defined \(my_name.py:3\)"),
    "my_file": ("open('no.csv')\n", r"FileNotFoundError: .*'no.csv' \(my_file.py:1\)"),
    "my_id": (
        "import gymnasium\ngymnasium.register('My Pole', object)\n",
        r"Error: Malformed environment ID: My Pole.*\(my_id.py:2\)",
    ),
    "my_exit": ("raise SystemExit(3)\n", r"SystemExit: 3 \(my_exit.py:1\)"),
    "my_need": (
        "import a_module_nobody_has\n",
        r"ModuleNotFoundError: No module named 'a_module_nobody_has' \(my_need.py:1\); install",
    ),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder of the user's with modules in it; the path is as it was, afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {*sys.modules}
    yield tmp_path
    for name in {*sys.modules} - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("name", BROKEN)
def test_what_a_module_raises_while_imported_is_a_sentence_with_file_and_line(name, here, capsys):
    code, words = BROKEN[name]
    (here / f"{name}.py").write_text(code)
    with pytest.raises(UserError, match=rf"^environment '{name}:My-v0': importing .*{words}"):
        resolve(f"{name}:My-v0")
    with pytest.raises(UserError, match=rf"^teacher '{name}:judge': importing {name} raised.*;"):
        load_object(f"{name}:judge", "teacher")
    with pytest.raises(UserError, match=rf"^scorer '{name}:score': .*{words}"):
        load_object(f"{name}:score", "scorer")
    sentence = complaint([*TRAIN, "--teacher", f"{name}:judge", "--run", "run"], capsys)
    assert re.search(words, sentence) and not (here / "run").exists()


def test_modules_that_are_not_there_are_named_with_what_would_be_right(here):
    with pytest.raises(UserError, match=r"cannot import 'judges'; there is no judges.py in /"):
        load_object("judges:one", "teacher")
    for given in ("judges.py", "./judges.py", "judges"):
        (here / "judges.py").write_text("one = 1\n")
        if given == "judges":
            assert load_object("judges:one", "teacher") == 1
            continue
        with pytest.raises(UserError, match=r"named without its ending, .* folders: 'judges'$"):
            load_object(f"{given}:one", "teacher")
    for unfit in ("", "judges", "judges:", ":one", ".judges:one", "judges:two", "judges:one.more"):
        with pytest.raises(UserError, match=r"cannot (find the|import)"):
            load_object(unfit, "teacher")


def test_a_module_in_a_folder_is_named_with_dots(here):
    (here / "mine").mkdir()
    (here / "mine" / "judges.py").write_text("class Judge:\n    def one(self):\n        return 1\n")
    assert load_object("mine.judges:Judge.one", "teacher")(None) == 1
    with pytest.raises(UserError, match=r"folders: 'mine.judges'$"):
        import_module("mine/judges.py", "environment")
    with pytest.raises(UserError, match=r"cannot import 'mine.jugdes'"):
        import_module("mine.jugdes", "environment")


SHOP = """
import gymnasium, numpy
class Shop(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 1, (3,))
    action_space = gymnasium.spaces.Discrete(3)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        import my_reset
        return numpy.zeros(3, numpy.float32), {}
    def step(self, action):
        import my_step
        return my_step.observation(self.np_random), float(action), False, False, {}
"""


def test_neighbours_of_a_module_are_importable_later_wherever_the_process_is_then(
    here, monkeypatch
):
    (here / "my_ids.py").write_text(
        "import gymnasium\ngymnasium.register('Shop-v0', 'my_shop:Shop', max_episode_steps=9)\n"
    )
    (here / "my_shop.py").write_text(SHOP)
    (here / "my_reset.py").write_text("")
    (here / "my_step.py").write_text(
        "def observation(random):\n    return random.random(3).astype('float32')\n"
    )
    name = resolve("my_ids:Shop-v0")
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")  # as simulators do
    shop = make(name)
    shop.reset(seed=0)
    assert shop.step(2)[1] == 2.0
    assert sys.path[0] == str(here) and str(here / "elsewhere") not in sys.path
    del gymnasium.registry["Shop-v0"]


def test_a_working_folder_that_is_gone_is_a_sentence(here, monkeypatch):
    (here / "gone").mkdir()
    monkeypatch.chdir(here / "gone")
    (here / "gone").rmdir()
    with pytest.raises(UserError, match="working folder does not exist any more"):
        load_object("judges:one", "teacher")
    monkeypatch.chdir(here)


def test_an_entry_point_in_text_that_leads_nowhere_is_a_sentence(here, capsys):
    (here / "my_entries.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Absent-v0', 'no_module_here:Env', max_episode_steps=9)\n"
        "gymnasium.register('Classless-v0', 'my_entries:NoClass', max_episode_steps=9)\n"
    )
    for name, words in (("Absent-v0", "'no_module_here'"), ("Classless-v0", "'NoClass'")):
        assert words in complaint(["train", "--env", f"my_entries:{name}"], capsys)
        del gymnasium.registry[name]


def test_what_was_raised_says_where_in_the_users_own_code():
    def judge():
        raise KeyError("a")

    try:
        judge()
    except KeyError as error:
        assert re.fullmatch(
            r"judge raised KeyError: 'a' \(test_modules.py:\d+\)", raised_by("judge", error)
        )
    assert raised_by("it", ValueError()) == "it raised ValueError"
