"""Draws the floors of docs/architecture.md from the import statements: python docs/draw_floors.py.

An import counts wherever it stands, inside a function too, and so do the modules that
``kd._startup`` loads by name. Those under TYPE_CHECKING only name types, and do not count.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PAGE = PROJECT / "docs" / "architecture.md"
MARKS = "<!-- drawn by docs/draw_floors.py -->\n", "<!-- end of drawing -->\n"
SMALL, TOP = "small modules", "commands"
FLOORS = [
    [SMALL],
    ["kd.methods"],
    ["kd.models"],
    ["kd.config"],
    ["kd.data"],
    ["kd.training"],
    ["kd.sweeps"],
    ["kd.search"],
    ["kd.report"],
    ["kd.export"],
    [TOP],
]
PURPOSE = {
    SMALL: "What all use: fields with bounds, files, seeds, metrics, torch loaded lazily.",
    TOP: "The command line, Hydra's plugin, and kd from Python.",
}


def modules() -> dict[str, Path]:
    """Every module of the project by its full name."""
    roots = [PROJECT / "kd", PROJECT / "hydra_plugins"]
    files = [PROJECT / "train.py", *(file for root in roots for file in root.rglob("*.py"))]
    names = {file: ".".join(file.relative_to(PROJECT).with_suffix("").parts) for file in files}
    return {name.removesuffix(".__init__"): file for file, name in sorted(names.items())}


def imports() -> dict[str, set[str]]:
    """The modules of the project that each module imports."""
    known = modules()
    found = {}
    for name, file in known.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        nodes = list(_counted(tree))
        found[name] = {one for node in nodes for one in _named(node, known)}
        if any(_calls(node, "exports") for node in nodes):  # its modules are named within it
            found[name] |= {f"{name}.{text}" for text in _texts(tree)} & set(known)
    return found


def _counted(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under TYPE_CHECKING."""
    yield node
    children = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        children = iter(node.orelse)
    for child in children:
        yield from _counted(child)


def _named(node: ast.AST, known: dict[str, Path]) -> set[str]:
    """The project's modules that a statement imports, or that a call loads lazily."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names} & set(known)
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports name their module in full"
        full = {f"{node.module}.{alias.name}" for alias in node.names}
        return full & set(known) or {node.module} & set(known)
    return _texts(node) & set(known) if _calls(node, "lazy") else set()


def _calls(node: ast.AST, function: str) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == function


def _texts(node: ast.AST) -> set[str]:
    constants = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
    return {value for value in constants if isinstance(value, str)}


def room_of(module: str) -> str:
    """The package of a module; modules outside packages are the small ones or the commands."""
    package = ".".join(module.split(".")[:2])
    if any(package in rooms for rooms in FLOORS):
        return package
    outside = module in ("kd", "kd.__main__", "kd.api") or not module.startswith("kd.")
    return TOP if outside else SMALL


def floor_of(room: str) -> int:
    """The number of the floor that a package is on."""
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def rooms() -> dict[str, set[str]]:
    """The packages that each package imports."""
    found: dict[str, set[str]] = {room: set() for floor in FLOORS for room in floor}
    for module, imported in imports().items():
        found[room_of(module)] |= {room_of(other) for other in imported}
    return {room: others - {room} for room, others in found.items()}


def draw() -> str:
    """The picture, and a table of what each package is for and imports."""
    graph = rooms()
    lines = ["```mermaid", "flowchart TB"]
    for number, floor in reversed(list(enumerate(FLOORS))):
        lines += [f'    {_id(room)}["{number} · {_label(room)}"]' for room in floor]
    for room in reversed(graph):
        nearest = graph[room] - {far for near in graph[room] for far in _below(graph, near)}
        lines += [f"    {_id(room)} --> {_id(near)}" for near in _downwards(nearest)]
    lines += ["```", "", "| floor | package | is for | imports, besides the small modules |"]
    lines.append("|---|---|---|---|")
    for room in reversed(graph):
        order = _downwards(graph[room] - {SMALL})
        others = ", ".join(f"`{other.removeprefix('kd.')}`" for other in order)
        lines.append(f"| {floor_of(room)} | {_files(room)} | {_purpose(room)} | {others} |")
    return "\n".join(lines) + "\n"


def _below(graph: dict[str, set[str]], room: str) -> set[str]:
    """What a package reaches by way of others; each import leads downwards."""
    down = {other for other in graph[room] if floor_of(other) < floor_of(room)}
    return down.union(*(_below(graph, other) for other in down))


def _downwards(found: set[str]) -> list[str]:
    return sorted(found, key=lambda room: (-floor_of(room), room))


def _id(room: str) -> str:
    return room.replace(".", "_").replace(" ", "_")


def _label(room: str) -> str:
    if room == SMALL:
        return "small modules of kd/"
    return "train.py · kd/__main__.py · kd/api.py" if room == TOP else room.replace(".", "/") + "/"


def _files(room: str) -> str:
    names = [name for name in modules() if room_of(name) == room]
    if room == SMALL:
        return ", ".join(f"`{name.replace('.', '/')}.py`" for name in names)
    if room == TOP:
        return "`train.py`, `kd/__main__.py`, `kd/api.py`, `hydra_plugins/`"
    return f"`{room.replace('.', '/')}/`"


def _purpose(room: str) -> str:
    """The first line of its docstring."""
    if room in PURPOSE:
        return PURPOSE[room]
    text = (PROJECT / room.replace(".", "/") / "__init__.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].replace("``", "`")


def redrawn(page: str) -> str:
    """The page with a new drawing between its marks."""
    before, rest = page.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    return f"{before}{MARKS[0]}\n{draw()}\n{MARKS[1]}{after}"


if __name__ == "__main__":
    PAGE.write_text(redrawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
