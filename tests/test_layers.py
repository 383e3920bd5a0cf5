"""Who may import whom: the rooms of prefrl/README.md, read from the source.

Every module has a row in `ROWS`: the rooms it imports from beside its own, and the packages it
loads as it is imported, beside the standard library. `python tests/test_layers.py` writes the rows
as the source has them, the picture in prefrl/README.md, and the trees in all READMEs.
"""

import ast
import fnmatch
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from trees import READMES, named, shown_in, tree, write_trees

import prefrl

ROOT = Path(__file__).parents[1]
OURS = "prefrl"
README = ROOT / OURS / "README.md"
PICTURE = ("<!-- rooms: made by tests/test_layers.py -->\n", "<!-- end of rooms -->\n")

# From top to bottom: a room imports from rooms below it alone, never from one beside or above it.
LEVELS = [
    ["cli"],
    ["commands"],
    ["reports"],
    ["runs"],
    ["control", "text", "viewer"],
    ["teachers"],
    ["learning"],
    ["contracts"],
    ["storage"],
    ["answers", "clips", "config", "environments", "guide"],
    ["types"],
    ["envs", "errors", "intervals", "pace"],
]

# The rooms that a module imports from, wherever in the file; the packages that it loads at once.
ROWS = {
    "": ("config runs types", ""),
    "answers": ("errors types", "numpy"),
    "cli": ("commands", ""),
    "clips": ("", ""),
    "clips.camera": ("", "mujoco numpy"),
    "clips.draw": ("", "mujoco numpy"),
    "clips.film": ("", "PIL imageio numpy"),
    "clips.ground": ("", "mujoco numpy"),
    "clips.looks": ("", "mujoco numpy"),
    "clips.meshes": ("", "mujoco numpy"),
    "clips.observed": ("", "numpy"),
    "clips.parts": ("", "mujoco numpy"),
    "clips.pictures": ("errors types", "PIL numpy"),
    "clips.scene": ("", "mujoco numpy"),
    "commands": ("", ""),
    "commands.answers": ("errors runs storage text", "tyro"),
    "commands.check": ("runs", "tyro"),
    "commands.console": ("config errors pace", "tyro"),
    "commands.generate": ("config errors pace runs storage text", "tyro"),
    "commands.judge": ("config errors reports runs storage teachers", "tyro"),
    "commands.label": ("config errors reports storage viewer", "tyro"),
    "commands.list": ("config envs", ""),
    "commands.options": ("config errors", "tyro"),
    "commands.plan": ("config errors learning reports runs storage", "tyro"),
    "commands.process": ("", ""),
    "commands.progress": ("config learning types", "rich"),
    "commands.reports": ("config contracts errors reports runs storage", "tyro"),
    "commands.sweep": ("config errors reports runs storage", "tyro"),
    "commands.table": ("errors", ""),
    "commands.text": ("config environments errors learning runs storage text types", "tyro"),
    "commands.training": ("config errors runs storage viewer", "tyro"),
    "commands.worries": ("types", ""),
    "config": ("", ""),
    "config.as_json": ("", ""),
    "config.control": ("errors", ""),
    "config.experiment": ("errors", ""),
    "config.fields": ("errors", ""),
    "config.learners": ("errors", ""),
    "config.learning": ("", ""),
    "config.presets": ("errors", ""),
    "config.sweep": ("", ""),
    "config.text": ("errors", ""),
    "contracts": ("config storage types", "numpy"),
    "control": ("", ""),
    "control.agents": ("", ""),
    "control.agents.actor": ("config", "gymnasium numpy stable_baselines3 torch"),
    "control.agents.direct": ("contracts types", ""),
    "control.agents.networks": ("config", "gymnasium stable_baselines3 torch"),
    "control.agents.novelty": ("", "numpy stable_baselines3 torch"),
    "control.agents.off_policy": ("config", "gymnasium numpy stable_baselines3"),
    "control.agents.ppo": (
        "config contracts environments learning types",
        "numpy stable_baselines3 torch",
    ),
    "control.agents.randomness": ("", "torch"),
    "control.agents.replay": ("contracts types", "gymnasium numpy"),
    "control.agents.restart": ("", ""),
    "control.agents.rewardless": ("", "numpy stable_baselines3"),
    "control.agents.sac": (
        "config contracts environments learning types",
        "gymnasium numpy stable_baselines3 torch",
    ),
    "control.agents.sampling": ("contracts environments types", "gymnasium numpy torch"),
    "control.agents.select": ("config contracts learning types", "numpy torch"),
    "control.agents.side_by_side": ("config", "gymnasium numpy stable_baselines3 torch"),
    "control.budget": ("config errors", ""),
    "control.build": (
        "clips config contracts environments errors learning storage types",
        "gymnasium numpy torch",
    ),
    "control.check": ("environments", "gymnasium"),
    "control.domain": ("config contracts errors storage types", ""),
    "control.encoder": ("", "gymnasium numpy stable_baselines3 torch"),
    "control.environments": ("", ""),
    "control.environments.adapters": ("environments errors types", "gymnasium numpy"),
    "control.environments.branching": ("errors types", "numpy"),
    "control.environments.fixed_horizon": ("environments errors", "gymnasium numpy"),
    "control.environments.interface": ("clips environments guide types", "gymnasium numpy"),
    "control.environments.looks": ("clips types", "gymnasium mujoco numpy"),
    "control.environments.make": ("environments errors", "gymnasium mujoco"),
    "control.environments.probe": ("clips environments errors", "gymnasium numpy"),
    "control.environments.recorder": ("types", "numpy"),
    "control.environments.redraw": ("clips environments errors types", "PIL gymnasium numpy"),
    "control.environments.seen": ("clips", "gymnasium numpy"),
    "control.environments.separate": ("clips environments errors types", "gymnasium numpy"),
    "control.environments.spaces": ("environments errors", "gymnasium numpy"),
    "control.evaluation": ("config contracts errors types", "torch"),
    "control.implicit": ("config types", "numpy torch"),
    "control.policy": (
        "clips config environments types",
        "gymnasium numpy stable_baselines3 torch",
    ),
    "control.practice": ("config errors guide learning storage types", "gymnasium numpy"),
    "control.reward": ("clips config errors types", "gymnasium numpy torch"),
    "environments": ("", ""),
    "environments.aspects": ("errors types", ""),
    "environments.contract": ("errors", "gymnasium numpy"),
    "environments.ids": ("errors", "gymnasium"),
    "environments.info": ("", "numpy"),
    "environments.modules": ("errors", ""),
    "envs": ("", "gymnasium"),
    "envs.ant_pirouette": ("", "mujoco numpy"),
    "envs.atari": ("", "gymnasium"),
    "envs.batched": ("", "gymnasium mujoco numpy"),
    "envs.catch": ("", "gymnasium numpy"),
    "envs.cheetah_handstand": ("", "mujoco numpy"),
    "envs.cheetah_press_ups": ("", "mujoco numpy"),
    "envs.crawlers": ("", "mujoco numpy"),
    "envs.deepmind": ("", "mujoco numpy"),
    "envs.guess_number": ("", "gymnasium numpy"),
    "envs.guides": ("", "numpy"),
    "envs.guides_of_text": ("", ""),
    "envs.half_cheetah": ("", "mujoco numpy"),
    "envs.hopper": ("", "mujoco numpy"),
    "envs.hopper_backflip": ("", "mujoco numpy"),
    "envs.level_cheetah": ("", "numpy"),
    "envs.movie_sentiment": ("", "gymnasium numpy"),
    "envs.one_legged_cheetah": ("", "mujoco numpy"),
    "envs.pendulums": ("", "mujoco numpy"),
    "envs.random_walks": ("", "numpy"),
    "envs.reacher": ("", "mujoco numpy"),
    "envs.text": ("", "gymnasium numpy"),
    "envs.tiny_reviews": ("", "numpy"),
    "envs.tiny_reviews_two": ("", "numpy"),
    "errors": ("", ""),
    "guide": ("errors", "numpy"),
    "intervals": ("", ""),
    "learning": ("", ""),
    "learning.agreement": ("types", "numpy"),
    "learning.bags": ("types", "numpy torch"),
    "learning.composed": ("config contracts types", "numpy torch"),
    "learning.critic": ("", "numpy torch"),
    "learning.given_reward": ("types", "numpy"),
    "learning.keeping": ("types", "numpy"),
    "learning.labellers": ("types", "numpy"),
    "learning.loop": ("config contracts errors types", ""),
    "learning.newer": ("types", ""),
    "learning.pacing": ("config contracts types", ""),
    "learning.parallel": ("errors", "torch"),
    "learning.preference": ("", "torch"),
    "learning.repeats": ("types", ""),
    "learning.reward": ("config contracts pace types", "numpy torch"),
    "learning.selection": ("config contracts errors types", "numpy torch"),
    "learning.statistics": ("intervals", "numpy"),
    "learning.stillness": ("errors types", "numpy"),
    "learning.true_reward": ("types", "numpy"),
    "learning.validation": ("contracts", "torch"),
    "pace": ("", ""),
    "reports": ("", ""),
    "reports.benchmarks": ("config learning storage text", "numpy"),
    "reports.compare": ("errors learning runs storage teachers types", ""),
    "reports.evaluate": ("learning storage text types", ""),
    "reports.film": ("clips control errors runs storage types", "numpy"),
    "reports.inspect": ("answers errors intervals learning runs storage types", "numpy torch"),
    "reports.judge": ("learning runs teachers types", "numpy torch"),
    "reports.labellers": ("learning types", "numpy"),
    "reports.links": ("storage types", ""),
    "reports.plan": ("config", ""),
    "reports.plot": ("config errors storage", "numpy"),
    "reports.sides": ("config contracts environments errors runs storage teachers text types", ""),
    "reports.table": ("config errors learning runs storage", "numpy"),
    "runs": ("", ""),
    "runs.cell": ("config contracts errors storage", ""),
    "runs.check": ("environments", "gymnasium"),
    "runs.crew": ("config contracts errors learning storage", ""),
    "runs.critic": ("config contracts errors storage teachers", "numpy"),
    "runs.domains": ("config contracts environments errors storage", "gymnasium"),
    "runs.evaluate": ("config contracts errors storage", ""),
    "runs.given_reward": ("config contracts errors learning storage teachers types", ""),
    "runs.grid": ("config errors storage", ""),
    "runs.judges": (
        "answers config contracts environments errors learning pace storage teachers types",
        "",
    ),
    "runs.load": ("config contracts errors storage", ""),
    "runs.on_ray": ("config errors storage", ""),
    "runs.page": ("", ""),
    "runs.replay": ("config contracts environments errors learning storage", ""),
    "runs.session": ("config contracts errors learning storage teachers types", ""),
    "runs.sweep": ("config contracts errors storage", ""),
    "runs.train": ("config contracts storage teachers", ""),
    "runs.versions": ("", ""),
    "runs.workers": ("config storage", ""),
    "storage": ("", ""),
    "storage.address": ("errors", ""),
    "storage.answering": ("answers errors types", ""),
    "storage.answers_csv": ("answers errors types", ""),
    "storage.checkpoint": ("types", "numpy torch"),
    "storage.copying": ("errors", ""),
    "storage.database": ("errors", ""),
    "storage.feedback": ("answers errors types", "numpy"),
    "storage.files": ("errors", ""),
    "storage.fitted": ("config errors", ""),
    "storage.folder": ("config errors guide types", ""),
    "storage.formats": ("errors", ""),
    "storage.gold": ("answers errors types", ""),
    "storage.gold_files": ("errors types", ""),
    "storage.grades": ("errors", ""),
    "storage.history": ("errors types", ""),
    "storage.import_export": ("errors types", ""),
    "storage.instructions": ("errors", ""),
    "storage.journal": ("", ""),
    "storage.jsonl": ("errors types", "numpy"),
    "storage.labelling": ("answers errors types", ""),
    "storage.links": ("errors", ""),
    "storage.others": ("", ""),
    "storage.overview": ("types", ""),
    "storage.postgres": ("errors", "psycopg"),
    "storage.postgres_schema": ("", ""),
    "storage.processes": ("", ""),
    "storage.rounds": ("answers errors types", "numpy"),
    "storage.rows": ("answers types", ""),
    "storage.schema": ("", ""),
    "storage.segments": ("errors types", "numpy"),
    "storage.shared": ("errors", ""),
    "storage.spaces": ("errors types", "numpy"),
    "storage.sqlite": ("errors", ""),
    "storage.sweeps": ("config errors", ""),
    "storage.tallies": ("", ""),
    "storage.texts": ("", ""),
    "storage.texts.conversations": ("types", ""),
    "storage.texts.examples": ("types", ""),
    "storage.texts.files": ("errors", ""),
    "storage.texts.forms": ("answers types", ""),
    "storage.texts.reader": ("answers errors", ""),
    "storage.texts.tools": ("", ""),
    "storage.trainer": ("errors", ""),
    "storage.unfinished": ("errors", ""),
    "teachers": ("", ""),
    "teachers.asking": ("errors types", ""),
    "teachers.constitution": ("config contracts errors types", ""),
    "teachers.endpoint": ("errors", "numpy"),
    "teachers.function": ("config environments errors types", ""),
    "teachers.gate": ("learning", ""),
    "teachers.grading": ("errors pace types", "numpy"),
    "teachers.judge": ("config contracts errors types", "numpy"),
    "teachers.oracle": ("answers config types", "numpy"),
    "teachers.orders": ("types", ""),
    "teachers.pairs": ("config contracts learning types", "numpy"),
    "teachers.reward": ("config types", ""),
    "text": ("envs", ""),
    "text.adapters": ("envs errors", "gymnasium numpy"),
    "text.agents": ("", ""),
    "text.agents.direct": ("contracts", ""),
    "text.agents.hindsight": ("config contracts learning types", "gymnasium numpy"),
    "text.agents.imitating": ("config learning pace", "gymnasium numpy torch"),
    "text.agents.ppo": ("config contracts learning", "gymnasium numpy torch"),
    "text.agents.rollout": ("config learning", "numpy torch"),
    "text.agents.sampling": (
        "config contracts environments learning types",
        "gymnasium numpy torch",
    ),
    "text.agents.schedule": ("contracts types", ""),
    "text.agents.select": ("config learning", "gymnasium numpy"),
    "text.agents.token_ppo": ("config learning pace", "torch"),
    "text.benchmarks": ("", ""),
    "text.benchmarks.answering": ("pace", "numpy"),
    "text.benchmarks.bbq": ("errors storage", "numpy"),
    "text.benchmarks.shipped": ("errors storage", "numpy"),
    "text.benchmarks.toxicity": ("errors pace storage", "numpy"),
    "text.benchmarks.truthfulqa": ("", "numpy"),
    "text.bias": ("environments errors learning storage", "numpy"),
    "text.budget": ("config errors", ""),
    "text.build": (
        "config contracts environments errors guide learning storage types",
        "gymnasium",
    ),
    "text.check": ("environments errors", "gymnasium"),
    "text.direct": ("config types", "numpy torch"),
    "text.domain": ("config contracts errors storage types", ""),
    "text.environments": ("environments learning pace", "gymnasium numpy"),
    "text.episode": ("types", "numpy"),
    "text.evaluation": (
        "config contracts environments errors learning storage teachers types",
        "gymnasium numpy torch",
    ),
    "text.export": ("config storage types", "transformers"),
    "text.few_shot": ("errors", "numpy"),
    "text.generating": ("errors storage types", ""),
    "text.hindsight": ("types", "numpy torch"),
    "text.likelihood": ("config learning types", "torch"),
    "text.models": ("", ""),
    "text.models.batches": ("", ""),
    "text.models.chance": ("", "numpy torch"),
    "text.models.device": ("config errors", "torch"),
    "text.models.gguf": ("errors", "torch"),
    "text.models.layers": ("errors", "torch transformers"),
    "text.models.load": ("config errors storage", "tokenizers torch transformers"),
    "text.models.logits": ("errors", "torch"),
    "text.models.lora": ("errors", "torch transformers"),
    "text.models.networks": ("learning", "torch transformers"),
    "text.models.optimizer": ("errors", "torch"),
    "text.models.sampling": ("", "torch transformers"),
    "text.models.sharding": ("learning", "torch"),
    "text.models.template": ("errors", "jinja2 transformers"),
    "text.models.tokens": ("", "numpy torch"),
    "text.models.trees": ("", "torch"),
    "text.policy": ("config errors learning", "torch"),
    "text.reward": ("config learning types", "numpy torch transformers"),
    "text.speaker": ("config errors", "numpy torch"),
    "text.stages": ("", ""),
    "text.stages.answers": ("answers errors learning storage types", ""),
    "text.stages.fit_state": ("errors learning storage types", ""),
    "text.stages.fitted": ("config errors storage", "numpy torch transformers"),
    "text.stages.fitting": ("config environments errors learning pace storage types", "numpy"),
    "text.stages.judging": ("config learning types", "torch"),
    "text.stages.lengths": ("errors", ""),
    "text.stages.scoring": ("answers errors learning pace storage types", ""),
    "text.stages.sft": (
        "answers config environments errors learning pace storage types",
        "gymnasium torch",
    ),
    "text.stages.tuning": ("config errors learning storage types", "torch"),
    "types": ("", "numpy"),
    "viewer": ("", ""),
    "viewer.addresses": ("errors", ""),
    "viewer.admin": ("intervals storage", "starlette"),
    "viewer.clips": ("clips errors types", "numpy"),
    "viewer.connections": ("", "uvicorn"),
    "viewer.fields": ("errors storage", ""),
    "viewer.guard": ("errors storage", "starlette"),
    "viewer.guidance": ("errors guide storage types", "numpy starlette"),
    "viewer.inspector": ("", ""),
    "viewer.labeller": ("storage", "starlette"),
    "viewer.markdown": ("", "markdown_it"),
    "viewer.moments": ("", "numpy"),
    "viewer.outside": ("errors", ""),
    "viewer.progress": ("storage", ""),
    "viewer.server": ("errors storage", "starlette uvicorn"),
    "viewer.tickets": ("errors storage types", ""),
    "viewer.view": ("clips errors storage types", "starlette"),
}
TORCH_FREE = [
    "", "errors", "config", "types", "contracts", "environments", "storage", "teachers.oracle",
    "teachers.function", "teachers.judge", "teachers.endpoint", "clips", "viewer", "envs",
    "text.check", "cli", "commands",
]  # fmt: skip
SQL_OF_REWARDS = re.compile(r"(FROM|INTO|TABLE|JOIN|EXISTS) true_reward\b")
TORCH_ITSELF = ["storage.checkpoint", "commands.progress"]  # torch's own format is what it writes


def sources():
    """Return the path of each module by its name below prefrl: "loop", "control.agent"."""
    found = {}
    for folder, prefix in ((ROOT / OURS, []), (ROOT / "envs", ["envs"])):
        for path in folder.rglob("*.py"):
            parts = [*prefix, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(part for part in parts if part != "__init__")] = path
    return dict(sorted(found.items()))


SOURCES = sources()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}


def for_types_alone(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def import_statements(tree, lazy):
    """Yield import statements, those inside functions and for type checkers only if `lazy`."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif lazy or not (isinstance(node, functions) or for_types_alone(node)):
            yield from import_statements(node, lazy)


def imports(name, lazy=True):
    """Return the full names of what a module imports."""
    found = set()
    package = [OURS, *name.split(".")] if name else [OURS]
    if SOURCES[name].stem != "__init__":
        package = package[:-1]
    for node in import_statements(TREES[name], lazy):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        above = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:  # `from prefrl import cli` names a module, too
            whole = f"{module}.{alias.name}"
            found.add(whole if whole.removeprefix(OURS + ".") in SOURCES else module)
    return found


def split(names):
    """Return which of ours (below prefrl) and which other packages there are among names."""
    ours = {n.removeprefix(OURS).removeprefix(".") for n in names if n.split(".")[0] == OURS}
    others = {n.split(".")[0] for n in names if n.split(".")[0] != OURS}
    return ours, others - set(sys.stdlib_module_names)


def room(name):
    """Return the room of a module: its folder, or the module itself at the top."""
    return name.split(".")[0]


def rooms_of(name):
    """Return the other rooms that a module imports from, wherever in the file."""
    return {room(module) for module in split(imports(name))[0]} - {room(name), ""}


def packages_of(name):
    """Return the packages that a module loads as it is imported, beside the standard library."""
    return split(imports(name, lazy=False))[1]


def row_of(name):
    return " ".join(sorted(rooms_of(name))), " ".join(sorted(packages_of(name)))


def picture():
    """Return a line a room, top to bottom: what is in it, and the rooms that it imports from."""
    lines = []
    for level in LEVELS:
        for name in level:
            inside = [module for module in ROWS if module == name or module.startswith(f"{name}.")]
            below_it = {other for module in inside for other in ROWS[module][0].split()}
            order = [other for names in LEVELS for other in names if other in below_it]
            lines.append(f"    {name:13}→ {', '.join(order) or 'nothing of ours'}")
    return "\n".join(lines) + "\n"


def test_the_source_is_found():
    known = {"", "learning.loop", "control.agents.ppo", "clips.draw", "envs", "envs.hopper"}
    assert known <= SOURCES.keys()
    assert imports("learning.loop") >= {"prefrl.learning.selection", "time"}


def test_every_module_has_a_row_and_every_row_a_module():
    assert sorted(ROWS) == sorted(SOURCES)
    rooms = [name for level in LEVELS for name in level]
    assert sorted(rooms) == sorted({room(name) for name in SOURCES} - {""})


@pytest.mark.parametrize("name", SOURCES)
def test_a_module_imports_what_its_row_says(name):
    assert row_of(name) == ROWS[name]


@pytest.mark.parametrize("name", SOURCES)
def test_no_arrow_points_upward(name):
    level = {other: depth for depth, names in enumerate(LEVELS) for other in names}
    for other in rooms_of(name) if name else ():  # the public face shows from all rooms
        assert level[other] > level[room(name)], f"prefrl.{name} imports from {other}"


def test_the_picture_of_the_rooms_is_that_of_the_rows():
    begin, end = PICTURE
    shown = README.read_text("utf-8").partition(begin)[2].partition(end)[0]
    assert shown.strip("\n") == picture().strip("\n"), "run `python tests/test_layers.py`"


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: readme.parent.name)
def test_a_tree_says_what_the_files_say_of_themselves(readme):
    assert shown_in(readme) == tree(readme), "run `python tests/test_layers.py`"


def test_each_module_is_named_in_exactly_one_tree():
    names = [path for readme in READMES for path in named(readme)]
    files = {*SOURCES.values(), *(ROOT / "scripts").rglob("*.py")}
    files |= set((ROOT / OURS / "viewer" / "page").glob("*.js"))
    assert sorted(names) == sorted(files)


def below(name, parents):
    return any(name == parent or (parent and name.startswith(f"{parent}.")) for parent in parents)


def loaded_by(name, seen):
    """Collect every module of ours that importing one loads, the folders around them, too."""
    if name not in seen:
        seen.add(name)
        parent = name.rpartition(".")[0]
        for module in {parent, *split(imports(name, lazy=False))[0]}:
            loaded_by(module, seen)
    return seen


@pytest.mark.parametrize("name", [name for name in SOURCES if below(name, TORCH_FREE)])
def test_nothing_that_must_be_quick_loads_torch(name):
    if name in TORCH_ITSELF:
        return
    for module in loaded_by(name, set()):
        assert not packages_of(module) & {"torch", "stable_baselines3"}, f"through prefrl.{module}"


def test_no_module_imports_itself_in_a_circle():
    graph = {name: split(imports(name, lazy=False))[0] - {name, ""} for name in SOURCES}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(SOURCES) - 1


def test_the_command_line_alone_sees_our_environments():
    """Everything else reaches them by id; only the kit of a language environment is imported."""
    for name in SOURCES:
        seen = {module for module in split(imports(name))[0] if below(module, ["envs"])}
        if not below(name, ["commands", "envs"]):
            assert seen <= {"envs.text"}, f"prefrl.{name} imports {seen}"


def test_nobody_but_the_loops_own_rooms_knows_both_worlds():
    """Learning never knows a robot from a text, and the two worlds never know each other."""
    for name in SOURCES:
        seen = rooms_of(name)
        if room(name) in ("control", "text"):
            assert not seen & {"control", "text"}, f"prefrl.{name} imports {seen}"


def attributes(tree):
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


SQL = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|CREATE|PRAGMA) ")
BEHIND_THE_WALL = {
    "connection",
    "execute",
    "transaction",
    "database",
    "write_answer",
}


@pytest.mark.parametrize("name", [name for name in SOURCES if room(name) != "storage"])
def test_only_the_store_knows_how_it_is_kept(name):
    assert not attributes(TREES[name]) & BEHIND_THE_WALL
    assert "sqlite3" not in imports(name)
    texts = [node.value for node in ast.walk(TREES[name]) if isinstance(node, ast.Constant)]
    assert not [text for text in texts if isinstance(text, str) and SQL.search(text)]


def test_only_the_oracle_reads_the_table_of_true_rewards():
    hidden = {"true_rewards", "truth"}
    readers = {name for name, tree in TREES.items() if attributes(tree) & hidden}
    evaluation = {"runs.evaluate", "reports.inspect"}  # and plots
    assert readers <= {"learning.pacing", "storage.feedback", "storage.import_export"} | evaluation
    tables = [
        name for name, path in SOURCES.items() if SQL_OF_REWARDS.search(path.read_text("utf-8"))
    ]
    assert tables == ["storage.schema", "storage.segments"], (
        "only the store knows how they are kept"
    )
    readers = [name for name in SOURCES if "storage.segments" in split(imports(name))[0]]
    assert readers == ["storage.feedback", "storage.rounds"]


def test_a_learned_reward_never_reads_the_environments():
    """`TrueReward` alone may; whoever fits, predicts or updates may not."""
    blind = ["learning.reward", "learning.preference", "teachers", "control.reward"]
    blind += [
        "control.agents.side_by_side",
        "control.agents.networks",
        "text.reward",
        "text.agents.rollout",
    ]
    blind += ["text.agents.token_ppo", "text.models", "text.stages"]
    for name in SOURCES:
        assert not below(name, blind) or "env_rewards" not in attributes(TREES[name]), name


@pytest.mark.parametrize("name", ["loop", "selection", "reward", "preference"])
def test_what_text_and_control_share_tests_no_type(name):
    called = {
        node.func.id
        for node in ast.walk(TREES[f"learning.{name}"])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"isinstance", "issubclass", "type", "hasattr"}
    assert "dtype" not in attributes(TREES[f"learning.{name}"])


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_package_is_installed():
    folders = {
        f"{OURS}.{name}".rstrip(".") for name, path in SOURCES.items() if path.stem == "__init__"
    }
    assert sorted(project()["packages"]) == sorted(folders)
    missing = {path.parent for path in SOURCES.values()} - {
        path.parent for path in SOURCES.values() if path.stem == "__init__"
    }
    assert not missing, "folders of modules without an __init__.py"


def test_every_file_that_is_not_python_is_installed():
    packages, data = project()["packages"], project()["package-data"]
    folders = {package: ROOT / Path(*package.split(".")) for package in packages}
    folders |= {name: ROOT / folder for name, folder in project()["package-dir"].items()}
    homes = {folder: package for package, folder in folders.items()}
    for path in [*(ROOT / OURS).rglob("*"), *(ROOT / "envs").rglob("*")]:
        if path.is_dir() or path.suffix in (".py", ".pyc"):
            continue
        home = next(parent for parent in path.parents if parent in homes)
        patterns = data.get(homes[home], [])
        name = path.relative_to(home).as_posix()
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), f"{path} is left out"
    for package, patterns in data.items():
        for pattern in patterns:
            assert list(folders[package].glob(pattern)), f"there is no {pattern} in {package}"


def test_the_public_face_is_what_it_says():
    for name in prefrl.__all__:
        assert getattr(prefrl, name).__name__ == name
        assert name in dir(prefrl)
    with pytest.raises(AttributeError, match=r"no attribute 'trian'; it has .*'train'"):
        prefrl.trian  # noqa: B018


HEAVY = ["torch", "stable_baselines3", "mujoco", "matplotlib", "imageio"]


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import prefrl; dir(prefrl)", [*HEAVY, "numpy", "gymnasium"]),
        ("from prefrl import Experiment, Segment", HEAVY),
        ("import prefrl.envs", [*HEAVY, "transformers"]),
        ("import prefrl.text, prefrl.text.check", [*HEAVY, "transformers"]),
        ("from prefrl.cli import main; main(['--help'])", [*HEAVY, "numpy", "gymnasium"]),
        ("from prefrl.cli import main; main(['list'])", HEAVY),
        ("import prefrl.storage.import_export, prefrl.storage.folder", HEAVY),
        ("import prefrl.config.presets, prefrl.teachers.oracle, prefrl.contracts", HEAVY),
        ("import prefrl.clips.draw, prefrl.clips.film", ["torch", "stable_baselines3"]),
        ("import prefrl.reports.evaluate, prefrl.reports.compare", ["stable_baselines3", "mujoco"]),
        ("import prefrl.reports.inspect, prefrl.reports.plot", ["stable_baselines3", "mujoco"]),
        ("import prefrl.control, prefrl.text, prefrl.contracts", [*HEAVY, "transformers"]),
    ],
)
def test_what_must_be_quick_loads_nothing_heavy(code, heavy):
    report = f"import sys; print('\\nloaded:', *({set(heavy)} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].strip() == "loaded:"
    assert done.stderr == ""


def write():
    """Write the rows as the source has them, and the picture in the README."""
    rows = {name: row_of(name) for name in SOURCES}
    ROWS.clear()
    ROWS.update(rows)
    here = Path(__file__)
    before, begin, rest = here.read_text("utf-8").partition("ROWS = {\n")
    after = rest.partition("\n}\n")[2]
    lines = [f"    {name!r}: {row},".replace("'", '"') for name, row in rows.items()]
    here.write_text("".join([before, begin, "\n".join(lines), "\n}\n", after]), "utf-8")
    before, begin, rest = README.read_text("utf-8").partition(PICTURE[0])
    after = rest.partition(PICTURE[1])[2]
    README.write_text(f"{before}{begin}\n{picture()}\n{PICTURE[1]}{after}", "utf-8")
    write_trees()
    subprocess.run([sys.executable, "-m", "ruff", "format", "-q", str(here)], check=True)


if __name__ == "__main__":
    write()
