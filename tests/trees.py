"""The trees in the READMEs: each of our files, with the first sentence that it says of itself.

A README keeps the order of its lines, which is the order to read the files in; what is new comes
last. `python tests/test_layers.py` writes them.
"""

import ast
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TREE = ("<!-- tree: made by tests/test_layers.py -->\n", "<!-- end of tree -->\n")
OWN_README = [
    *(ROOT / "prefrl" / room for room in ("control", "text", "storage", "viewer", "commands")),
    ROOT / "envs",
]
READMES = {  # whose tree names what is in which folders
    ROOT / "README.md": [ROOT / "prefrl", ROOT / "envs", ROOT / "scripts"],
    **{folder / "README.md": [folder] for folder in OWN_README},
}
INDENT, COLUMN, WIDTH = 4, 26, 100


def says_of_itself(path):
    """Return the first sentence of a file's docstring, of a script's first comment."""
    if path.is_dir():
        inside = path / "__init__.py"
        return says_of_itself(inside) if inside.exists() else ""
    source = path.read_text("utf-8")
    if path.suffix == ".py":
        first = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    else:
        comment = re.match(r"(?:// ?.*\n)+", source)
        first = re.sub(r"\n?// ?", " ", comment[0]).strip() if comment else ""
        first = first.partition(". ")[0]
    return first.strip().rstrip(".")


def modules(folder):
    """Return the files and folders of a folder that a tree names, in no order of use."""
    files = [*folder.glob("*.py"), *folder.glob("*.js")]
    folders = [path for path in folder.iterdir() if path.is_dir() and modules(path)]
    return sorted(path for path in [*files, *folders] if path.name != "__init__.py")


def line(path, depth):
    """Return a file's line in a tree, wrapped."""
    name = " " * (INDENT + 2 * depth) + path.name + "/" * path.is_dir()
    text = f"{name:{COLUMN - 1}} {says_of_itself(path)}"
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * COLUMN, drop_whitespace=True)


def grown(folder, order, depth, reader):
    """Return the lines of a folder and all that is in it, in an order of paths."""
    if folder in OWN_README and folder != reader:
        name = " " * (INDENT + 2 * depth) + folder.name + "/"
        says = f"{says_of_itself(folder)} ({folder.relative_to(ROOT).as_posix()}/README.md)"
        text = f"{name:{COLUMN - 1}} {says}"
        return textwrap.wrap(text, WIDTH, subsequent_indent=" " * COLUMN)
    lines = line(folder, depth)
    for path in sorted(modules(folder), key=lambda path: order.get(path, len(order))):
        grow = grown(path, order, depth + 1, reader) if path.is_dir() else line(path, depth + 1)
        lines += grow
    return lines


def order_of(shown, folders):
    """Return the index of each path in a tree that was written before."""
    order, above = {}, []
    for text in shown.splitlines():
        match = re.match(rf" {{{INDENT},{COLUMN - 2}}}(?! )", text)
        if not match or len(match[0]) >= COLUMN:
            continue
        depth, name = (len(match[0]) - INDENT) // 2, text.split()[0].rstrip("/")
        top = next((folder for folder in folders if folder.name == name), None)
        path = top if depth == 0 else above[depth - 1] / name
        if path is None:
            continue
        above[depth:] = [path]
        order[path] = len(order)
    return order


def shown_in(readme):
    """Return the tree that a README shows."""
    return readme.read_text("utf-8").partition(TREE[0])[2].partition(TREE[1])[0].strip("\n")


def tree(readme):
    """Return the tree that a README should show."""
    folders = READMES[readme]
    order = order_of(shown_in(readme), folders)
    lines = []
    for folder in folders:
        lines += grown(folder, order, 0, readme.parent)
    return "\n".join(lines)


def named(readme):
    """Return the files that a README's tree names; the line of a folder names its `__init__`."""
    paths = order_of(shown_in(readme), READMES[readme])
    inside = {path / "__init__.py" for path in paths if path not in OWN_README}
    own = {readme.parent / "__init__.py"} if readme.parent in OWN_README else set()
    return {path for path in {*paths, *inside, *own} if path.is_file()}


def write_trees():
    """Write each README's tree anew."""
    for readme in READMES:
        made = tree(readme)
        before, begin, rest = readme.read_text("utf-8").partition(TREE[0])
        after = rest.partition(TREE[1])[2]
        readme.write_text(f"{before}{begin}\n{made}\n\n{TREE[1]}{after}", "utf-8")
