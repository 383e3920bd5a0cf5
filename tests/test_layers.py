"""Who may import whom: the arrows of DESIGN.md and prefrl/README.md, read from the source."""

import ast
import fnmatch
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = "prefrl"

# What of prefrl a module may import, wherever in the file; a name stands for all that is below it.
ARROWS = {
    "": [],
    "cli": ["commands", "errors"],
    "errors": [],
    "config": ["errors"],
    "checkpoint": [],
    "preference": [],
    "types": ["errors"],
    "pictures": ["errors", "types"],
    "presets": ["config", "errors"],
    "run": ["config", "errors"],
    "schema": ["errors"],
    "segments": ["errors", "types"],
    "feedback": ["errors", "schema", "segments", "types"],
    "lines": ["errors", "types"],
    "spaces": ["errors", "types"],
    "exchange": ["errors", "feedback", "lines", "spaces", "types"],
    "reward": ["config", "preference", "types"],
    "selection": ["errors", "preference", "reward", "types"],
    "loop": ["config", "errors", "feedback", "reward", "selection", "types"],
    "loading": ["checkpoint", "control.build", "errors", "gym", "run", "text.build"],
    "teachers": ["config", "errors", "feedback", "types"],
    "intervals": [],
    "comparing": [
        "config",
        "errors",
        "feedback",
        "intervals",
        "loop",
        "run",
        "selection",
        "teachers",
        "types",
    ],
    "clips": ["clips", "errors", "types"],
    "gym": ["errors"],
    "parts": ["loop", "reward", "run"],
    "truth": ["types"],
    "control": ["config", "control", "errors", "gym", "pictures", "reward", "types"],
    "control.build": [
        "clips",
        "config",
        "control",
        "errors",
        "parts",
        "reward",
        "run",
        "truth",
    ],
    "control.building": ["errors", "gym"],
    "control.evaluation": ["config", "control", "run", "types"],
    "control.interface": ["types"],
    "control.replay": ["pictures", "types"],
    "viewer": ["clips", "errors", "exchange", "feedback", "pictures", "run", "types", "viewer"],
    "text": ["config", "envs.spaces", "errors", "reward", "text", "types"],
    "text.build": ["config", "errors", "gym", "parts", "reward", "run", "text", "truth"],
    "text.check": ["errors", "gym"],
    "text.sft": ["config", "errors", "feedback", "gym", "lines", "text", "types"],
    "text.tuning": ["config", "errors", "text"],
    "text.answers": ["errors", "exchange", "feedback", "lines", "run", "text", "types"],
    "text.fitting": [
        "checkpoint",
        "config",
        "errors",
        "gym",
        "preference",
        "reward",
        "run",
        "text",
        "types",
    ],
    "text.evaluation": [
        "comparing",
        "config",
        "errors",
        "gym",
        "intervals",
        "loop",
        "run",
        "text",
        "types",
    ],
    "text.wording": ["errors", "intervals", "text"],
    "envs": ["envs"],
}
# What else a module may import as it is loaded, beside the standard library.
PACKAGES = {
    "": [],
    "cli": [],
    "commands": [],
    "errors": [],
    "config": [],
    "presets": [],
    "run": [],
    "types": ["numpy"],
    "pictures": ["PIL", "numpy"],
    "schema": [],
    "segments": ["numpy"],
    "feedback": ["numpy"],
    "lines": ["numpy"],
    "spaces": ["numpy"],
    "exchange": ["numpy"],
    "teachers": ["numpy"],
    "intervals": ["numpy"],
    "comparing": ["numpy"],
    "loop": ["numpy"],
    "preference": ["torch"],
    "checkpoint": ["numpy", "torch"],
    "reward": ["numpy", "torch"],
    "selection": ["numpy", "torch"],
    "text.check": ["gymnasium", "numpy"],
    "envs": ["gymnasium", "mujoco", "numpy"],
    "envs.guess_number": ["gymnasium", "numpy"],
    "envs.movie_sentiment": ["gymnasium", "numpy"],
    "envs.random_walks": ["gymnasium", "numpy"],
    "envs.spaces": ["gymnasium", "numpy"],
    "envs.tiny_reviews": ["gymnasium", "numpy"],
    "clips": ["PIL", "imageio", "imageio_ffmpeg", "mujoco", "numpy"],
    "viewer": ["mujoco", "numpy", "starlette", "uvicorn"],
}
TORCH_FREE = ["", "errors", "config", "types", "presets", "run", "feedback", "exchange", "teachers",
              "clips", "viewer", "envs", "text.check", "cli", "commands"]  # fmt: skip


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


def below(name, parents):
    return any(name == parent or (parent and name.startswith(f"{parent}.")) for parent in parents)


def rules_for(name, table):
    """Return the rule of the module or of the package that it is in, None if there is none."""
    return table.get(name, table.get(name.split(".")[0]))


def test_the_source_is_found():
    assert {"", "loop", "control.agent", "clips.draw", "envs", "envs.hopper"} <= SOURCES.keys()
    packages = {name.split(".")[0] for name in SOURCES}
    assert SOURCES.keys() | packages >= ARROWS.keys() | PACKAGES.keys()
    assert imports("loop") >= {"prefrl.selection", "numpy", "math"}


@pytest.mark.parametrize("name", SOURCES)
def test_a_module_imports_only_what_the_arrows_allow(name):
    ours, _ = split(imports(name))
    assert "cli" not in ours, "only a shell starts the command line"
    if name != "cli" and not below(name, ["commands"]):
        assert not any(below(module, ["commands"]) for module in ours), "commands are for people"
    allowed = rules_for(name, ARROWS)
    if allowed is not None:
        wrong = {module for module in ours if not below(module, allowed)}
        assert not wrong, f"prefrl.{name} imports {sorted(wrong)}; it may import {allowed}"


@pytest.mark.parametrize(
    "name", [name for name in SOURCES if rules_for(name, PACKAGES) is not None]
)
def test_a_module_loads_only_the_packages_it_may(name):
    _, others = split(imports(name, lazy=False))
    assert others <= set(rules_for(name, PACKAGES))


def loaded_by(name, seen):
    """Collect every module of ours that importing one loads."""
    if name not in seen:
        seen.add(name)
        for module in split(imports(name, lazy=False))[0]:
            loaded_by(module, seen)
    return seen


@pytest.mark.parametrize("name", [name for name in SOURCES if below(name, TORCH_FREE)])
def test_nothing_that_must_be_quick_loads_torch(name):
    for module in loaded_by(name, set()):
        _, others = split(imports(module, lazy=False))
        assert not others & {"torch", "stable_baselines3"}, f"through prefrl.{module}"


def test_no_module_imports_itself_in_a_circle():
    graph = {name: split(imports(name, lazy=False))[0] - {name, ""} for name in SOURCES}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(SOURCES) - 1


def test_the_command_line_alone_sees_our_environments():
    """Everything else reaches them by id; only their spaces may be imported."""
    for name in SOURCES:
        seen = {module for module in split(imports(name))[0] if below(module, ["envs"])}
        if not below(name, ["commands", "envs"]):
            assert seen <= {"envs.spaces"}, f"prefrl.{name} imports {seen}"


def attributes(tree):
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_only_the_oracle_reads_the_table_of_true_rewards():
    hidden = {"true_rewards", "average_clip_return"}
    readers = {name for name, tree in TREES.items() if attributes(tree) & hidden}
    evaluation = {"results", "inspection"}  # and plots
    assert readers <= {"teachers", "feedback"} | evaluation
    tables = [name for name, path in SOURCES.items() if "true_reward " in path.read_text("utf-8")]
    assert tables == ["schema", "segments"], "only the store knows how they are kept"
    assert [name for name in SOURCES if "segments" in split(imports(name))[0]] == ["feedback"]


def test_a_learned_reward_never_reads_the_environments():
    """`TrueReward` alone may; whoever fits, predicts or updates may not."""
    blind = ["reward", "preference", "teachers", "control.reward", "control.ppo"]
    blind += ["text.reward", "text.ppo", "text.networks", "text.fitting", "text.answers"]
    assert all("env_rewards" not in attributes(TREES[name]) for name in blind)


@pytest.mark.parametrize("name", ["loop", "selection", "reward", "preference"])
def test_what_text_and_control_share_tests_no_type(name):
    called = {
        node.func.id
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"isinstance", "issubclass", "type", "hasattr"}
    assert "dtype" not in attributes(TREES[name])


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
    for path in (ROOT / OURS).rglob("*"):
        if path.is_dir() or path.suffix in (".py", ".pyc"):
            continue
        home = next(p for p in path.parents if ".".join(p.relative_to(ROOT).parts) in packages)
        patterns = data.get(".".join(home.relative_to(ROOT).parts), [])
        name = path.relative_to(home).as_posix()
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), f"{path} is left out"
    for package, patterns in data.items():
        folder = ROOT / Path(*package.split("."))
        for pattern in patterns:
            assert list(folder.glob(pattern)), f"there is no {pattern} in {package}"


HEAVY = ["torch", "stable_baselines3", "mujoco", "matplotlib", "imageio"]


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import prefrl", [*HEAVY, "numpy", "gymnasium"]),
        ("import prefrl.envs", [*HEAVY, "transformers"]),
        ("import prefrl.text, prefrl.text.check", [*HEAVY, "transformers"]),
        ("from prefrl.cli import main; main(['--help'])", [*HEAVY, "numpy", "gymnasium", "tyro"]),
        ("from prefrl.cli import main; main(['list'])", HEAVY),
        ("import prefrl.exchange, prefrl.run, prefrl.presets, prefrl.teachers", HEAVY),
        ("import prefrl.clips.draw, prefrl.clips.film", ["torch", "stable_baselines3"]),
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
