"""Every file can be read by a person and run by anybody: its length, its paths, and the commands that it names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from cli_runner import run
from source_tree import ROOT, imports, python_files, relative, syntax, written_files

LONGEST_FILE = 500
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
PLAIN_WORD = re.compile(r"[a-z][a-z-]*")
EVALUATORS = {"eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "os.system"}


NOT_OURS_TO_GIVE = {"tests/processing/test_prompts.py"}
"""Files with tests of data whose licence does not let us copy it: the tokenizer of Gemma."""


def test_no_file_is_longer_than_a_person_reads() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in written_files()}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def unpickled_or_evaluated(path: Path) -> Iterator[str]:
    yield from {name.split(".")[0] for name in imports(path)} & UNPICKLERS
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in EVALUATORS or (called in ("np.load", "numpy.load") and may_unpickle(node)):
                yield f"line {node.lineno}: {called}"


def may_unpickle(call: ast.Call) -> bool:
    given = [keyword.value for keyword in call.keywords if keyword.arg == "allow_pickle"]
    return not all(isinstance(value, ast.Constant) and value.value is False for value in given)


def test_nothing_is_unpickled_or_evaluated() -> None:
    """Ruff's S rules hold this for the product; here tests, benchmarks and tools are held to it too."""
    found = {relative(path): calls for path in python_files() if (calls := list(unpickled_or_evaluated(path)))}
    assert found == {}


def test_no_path_of_the_machine_it_was_written_on() -> None:
    home = re.compile(r"(?<![\w.])/(work|root|tmp)/\w")
    this = relative(Path(__file__))
    assert [
        name for path in written_files() if (name := relative(path)) != this and home.search(path.read_text())
    ] == []


def test_tests_need_no_file_outside_the_checkout() -> None:
    """What they need lies in `tests/data`, so that they run for everybody."""
    outside = re.compile(r"""["']shared["'/]|parents\[\d\]\.parent\b""")
    tests = [path for path in python_files() if path.is_relative_to(ROOT / "tests") and path != Path(__file__)]
    assert {relative(path) for path in tests if outside.search(path.read_text())} <= NOT_OURS_TO_GIVE


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("CONTRIBUTING.md"))]


def documented_commands(document: Path) -> list[list[str]]:
    """The calls of `make` and `pi0-edge` in a document, as words."""
    text = document.read_text()
    blocks = re.findall(r"```(?:sh|bash|console)?\n(.*?)```", text, re.DOTALL)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`((?:make|pi0-edge) [^`]+)`", text)
    words = [re.sub(r"[][]", "", line.split("#")[0]).split() for line in lines]
    return [command for command in words if command[:1] in (["make"], ["pi0-edge"]) and len(command) > 1]


@cache
def options_of(*command: str) -> set[str] | None:
    """The options of a command, or None if there is no such command."""
    helped = run(*command, "--help")
    return set(re.findall(r"--[a-z][a-z0-9-]*", helped.out)) if helped.code == 0 else None


def missing_from(program: str, name: str, *words: str) -> Iterator[str]:
    if not PLAIN_WORD.fullmatch(name):
        return
    if program == "make":
        targets = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        yield from [] if name in targets else [f"make {name}"]
        return
    command = (name, words[0]) if words and PLAIN_WORD.fullmatch(words[0]) else (name,)
    options = options_of(*command)
    if options is None:
        yield f"pi0-edge {' '.join(command)}"
    else:
        given = {word.split("=")[0] for word in words if re.match(r"--[a-z]", word)}
        yield from (f"pi0-edge {' '.join(command)} {option}" for option in sorted(given - options))


def test_every_documented_command_exists() -> None:
    readme = documented_commands(ROOT / "README.md")
    assert ["make", "demo"] in readme and ["make", "test"] in readme
    missing = {
        relative(document): wrong
        for document in documents()
        if (wrong := [miss for command in documented_commands(document) for miss in missing_from(*command)])
    }
    assert missing == {}
