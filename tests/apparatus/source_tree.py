"""The project's own source files: which there are, what each imports, and which packages that joins."""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "pi0_edge": "pi0_edge",
    "quant": "pi0_edge.quant",
    "protos": "pi0_edge.protos",
    "firmware_bridge": "firmware_bridge",
}
"""Folder at the top of the tree -> the package that it is; links inside `pi0_edge` lead to `quant` and `protos`."""
GENERATED = ("_pb2.py", "_pb2_grpc.py", "_pb2.pyi", "serial_link.h", "serial_link.py")
KINDS = (".py", ".pyi", ".c", ".h", ".cpp", ".cu", ".cuh", ".S", ".ld", ".mjs", ".sh", ".proto", ".cmake")


@cache
def modules() -> dict[str, Path]:
    """Every module of the packages, by its full name; no link is followed, so that each is there once."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in _files(ROOT / folder):
            if path.suffix == ".py":
                parts = path.relative_to(ROOT / folder).with_suffix("").parts
                found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return dict(sorted(found.items()))


def _files(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if name not in ("build", "__pycache__", "node_modules")]
        yield from (Path(where) / name for name in names)


@cache
def written_files() -> tuple[Path, ...]:
    """Every source file that a person wrote, tests, examples and tools included."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False)
    if listed.returncode == 0:
        found = [ROOT / name for name in listed.stdout.splitlines()]
    else:  # an unpacked archive
        folders = (*FOLDERS, "tests", "benchmarks", "examples", "tools")
        found = [path for name in folders for path in _files(ROOT / name)]
    kept = (path for path in found if path.suffix in KINDS and path.is_file())
    return tuple(sorted(path for path in kept if not path.name.endswith(GENERATED)))


def python_files() -> list[Path]:
    return [path for path in written_files() if path.suffix == ".py"]


@cache
def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path, module: str = "") -> set[str]:
    """Every name that a file imports anywhere, functions and type-checking blocks included.

    Args:
        path: The file.
        module: Its full name, which relative imports need.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, node.module or ""]).strip(".")
            # `from package import name` may name a module of the package.
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def inside(module: str, place: str) -> bool:
    return module == place or module.startswith(f"{place}.")


def own_imports(module: str) -> set[str]:
    """The modules of the project that a module imports; a name from a module counts as the module."""
    ours = [
        name for name in imports(modules()[module], module) if name.split(".")[0] in ("pi0_edge", "firmware_bridge")
    ]
    return {_module_of(name) for name in ours}


def _module_of(name: str) -> str:
    while name not in modules() and "." in name:
        name = name.rpartition(".")[0]
    return name


def circle(graph: dict[str, set[str]]) -> list[str] | None:
    """A circle in a graph of imports, as the names along it; None where there is none."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str] | None:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return None
        for target in sorted(graph.get(name, ())):
            if found := visit(target, [*way, name]):
                return found
        done.add(name)
        return None

    return next((found for name in sorted(graph) if (found := visit(name, []))), None)


def depth(graph: dict[str, set[str]]) -> int:
    """How many names the longest way through a graph without circles visits."""

    @cache
    def below(name: str) -> int:
        return 1 + max(map(below, graph.get(name, ())), default=0)

    return max(map(below, graph))


def between(sources: Iterable[str], place_of: dict[str, str]) -> dict[str, set[str]]:
    """The graph of imports between places, from that between their modules."""
    graph: dict[str, set[str]] = {}
    for module in sources:
        place = place_of[module]
        targets = {place_of[target] for target in own_imports(module) if target in place_of}
        graph.setdefault(place, set()).update(targets - {place})
    return graph
