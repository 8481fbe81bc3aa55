"""Imports run downwards, without circles, and each place keeps to what it may need."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from source_tree import (
    ROOT,
    between,
    circle,
    depth,
    imports,
    inside,
    modules,
    own_imports,
    python_files,
    relative,
    syntax,
)

ANYTHING = ["*"]
POLICY_STACK = ["pi0_edge.checkpoints", "pi0_edge.engine", "pi0_edge.model", "pi0_edge.processing"]
ABOVE_POLICY = ["pi0_edge.policy", *POLICY_STACK]

BOTTOM = (
    "pi0_edge.errors",
    "pi0_edge.installed_packages",
    "pi0_edge.progress",
    "pi0_edge.json_files",
    "pi0_edge.json_values",
    "pi0_edge.latency",
    "pi0_edge.output_paths",
    "pi0_edge.pages",
    "pi0_edge.synced_files",
    "pi0_edge.robots",
    "pi0_edge.latency",
)
"""Small modules that every other place may import, the bridge included; they import nothing but each other."""

ALLOWED = {
    "pi0_edge.model": [],
    "pi0_edge.protos": [],
    "pi0_edge.kernels": [],
    "pi0_edge.datasets": [],
    "pi0_edge.shipped": [],
    "pi0_edge.board": [],
    "pi0_edge.training_profile": [],
    "pi0_edge.heads": ["pi0_edge.model"],
    "pi0_edge.quant": ["pi0_edge.model"],
    "pi0_edge.checkpoints": ["pi0_edge.model", "pi0_edge.processing"],
    "pi0_edge.processing": ["pi0_edge.model"],
    "pi0_edge.tensorrt": ["pi0_edge.model", "pi0_edge.quant"],
    "pi0_edge.openvino": ["pi0_edge.quant"],
    "pi0_edge.engine": [
        "pi0_edge.heads",
        "pi0_edge.kernels",
        "pi0_edge.model",
        "pi0_edge.openvino",
        "pi0_edge.tensorrt",
        "pi0_edge.quant",
    ],
    "pi0_edge.estimation": ["pi0_edge.kernels", "pi0_edge.latency", "pi0_edge.model", "pi0_edge.quant"],
    "pi0_edge.bundle": ["pi0_edge.model", "pi0_edge.processing", "pi0_edge.quant", "pi0_edge.training_profile"],
    "pi0_edge.policy": [*POLICY_STACK, "pi0_edge.bundle", "pi0_edge.quant"],
    "pi0_edge.gradient_verification": ["pi0_edge.checkpoints", "pi0_edge.model"],
    "pi0_edge.verification": [*POLICY_STACK, "pi0_edge.gradient_verification", "pi0_edge.heads", "pi0_edge.quant"],
    "pi0_edge.sim": ["pi0_edge.datasets"],
    "pi0_edge.training": [
        "pi0_edge.checkpoints",
        "pi0_edge.datasets",
        "pi0_edge.engine",  # fills a network of full size without an fp32 copy of it
        "pi0_edge.heads",
        "pi0_edge.model",
        "pi0_edge.processing",
        "pi0_edge.quant",
    ],
    "pi0_edge.distillation": [
        "pi0_edge.checkpoints",
        "pi0_edge.datasets",
        "pi0_edge.model",
        "pi0_edge.policy",
        "pi0_edge.processing",
        "pi0_edge.training",
    ],
    "pi0_edge.evaluation": [*ABOVE_POLICY, "pi0_edge.datasets", "pi0_edge.sim", "pi0_edge.quant"],
    "pi0_edge.ptq": [
        *ABOVE_POLICY,
        "pi0_edge.bundle",
        "pi0_edge.datasets",
        "pi0_edge.distillation",
        "pi0_edge.estimation",
        "pi0_edge.evaluation",
        "pi0_edge.sim",
        "pi0_edge.quant",
        "pi0_edge.training_profile",
    ],
    "pi0_edge.serving": [*ABOVE_POLICY, "pi0_edge.board", "pi0_edge.bundle", "pi0_edge.protos"],
    "pi0_edge.self_test": [
        *ABOVE_POLICY,
        "pi0_edge.bundle",
        "pi0_edge.ptq",
        "pi0_edge.quant",
        "pi0_edge.serving",
    ],
    "pi0_edge.bench": ANYTHING,
    "pi0_edge.certificates": ["pi0_edge.protos"],
    "pi0_edge.cameras": [],
    "pi0_edge.run": [
        *ABOVE_POLICY,
        "pi0_edge.board",
        "pi0_edge.bundle",
        "pi0_edge.cameras",
        "pi0_edge.datasets",
        "pi0_edge.latency",
        "pi0_edge.protos",
        "pi0_edge.ptq",  # the figures of the gate, for another policy in a recorded run
        "pi0_edge.serving",
        "pi0_edge.training_profile",
        "firmware_bridge",
    ],
    "pi0_edge.deploy": ["pi0_edge.board", "pi0_edge.bundle", "pi0_edge.latency", "pi0_edge.protos", "firmware_bridge"],
    "pi0_edge.doctor": [
        "pi0_edge.board",
        "pi0_edge.cameras",
        "pi0_edge.kernels",
        "pi0_edge.openvino",
        "pi0_edge.quant",  # which instructions run INT8 layers here
        "pi0_edge.shipped",
    ],
    "pi0_edge.comparison": ANYTHING,
    "pi0_edge.demo": ANYTHING,
    "pi0_edge.cli": ANYTHING,
    "pi0_edge": ANYTHING,  # the public names
    "firmware_bridge": ["pi0_edge.protos"],
}
"""What each place may import of ours, besides itself and `BOTTOM`; the first that fits a module is its place."""

OTHER_WORK = {"grpc", "serial", "mujoco"}
FORBIDDEN = {
    "firmware_bridge": {"torch", "safetensors", "PIL"},
    "pi0_edge.protos": {"torch", "numpy"},
    **{place: {"torch", "numpy", *OTHER_WORK} for place in BOTTOM},
    "pi0_edge.processing": OTHER_WORK,
    "pi0_edge.kernels": OTHER_WORK,
    "pi0_edge.bundle": {*OTHER_WORK, "yaml"},
    "pi0_edge.estimation": OTHER_WORK,
    "pi0_edge.tensorrt": OTHER_WORK,
    "pi0_edge.openvino": OTHER_WORK,
    "pi0_edge.heads": OTHER_WORK,
    "pi0_edge.engine": OTHER_WORK,
    "pi0_edge.ptq": OTHER_WORK,
    "pi0_edge.quant": OTHER_WORK,
    "pi0_edge.distillation": OTHER_WORK,
    "pi0_edge.training": OTHER_WORK,
    "pi0_edge.sim": {"torch", "grpc", "serial"},
    "pi0_edge.datasets": {"torch", "grpc", "serial"},
    "pi0_edge.training_profile": {"torch", *OTHER_WORK},
    "pi0_edge.board": {"torch", "numpy", "yaml", *OTHER_WORK},
    "pi0_edge.cameras": {"torch", *OTHER_WORK},
    "pi0_edge.deploy": {"torch", "numpy", "serial", "mujoco"},
    "pi0_edge.run": {"serial", "mujoco"},
    "pi0_edge.serving": {"serial", "mujoco"},
    "pi0_edge.self_test": {"serial", "mujoco"},
}
"""Third-party packages that a place does without: it runs where they are missing, or they are not its subject."""

MOST_ENTRIES = 15
DEEPEST_LEVEL = 6


def place_of(module: str) -> str:
    return next((place for place in (*BOTTOM, *ALLOWED) if inside(module, place)), "")


def places() -> dict[str, str]:
    return {module: place_of(module) for module in modules()}


def bridge_entry(module: str) -> str:
    """The file or folder of the bridge's top level that a module lies in."""
    return ".".join(module.split(".")[:2])


def allowed(place: str) -> list[str]:
    return [place, *BOTTOM, *ALLOWED.get(place, [])]


def wrong_imports() -> Iterator[str]:
    for module in modules():
        may = allowed(place_of(module))
        if may[-1] != "*":
            for target in sorted(own_imports(module)):
                if not any(inside(target, place) for place in may):
                    yield f"{module} imports {target}"


def test_imports_run_downwards() -> None:
    assert sorted(wrong_imports()) == []


def test_new_places_are_entered_in_the_table() -> None:
    """`pi0_edge` itself is the file of the public names, so a module of it that has no place of its own is new."""
    unknown = [module for module, place in places().items() if place == "pi0_edge" and module != "pi0_edge"]
    assert unknown == [], "say in ALLOWED what these may import"


def test_no_circle_joins_packages() -> None:
    assert circle(between(modules(), places())) is None


def test_no_circle_joins_the_folders_of_the_bridge() -> None:
    entries = {module: bridge_entry(module) for module in modules() if inside(module, "firmware_bridge")}
    graph = between(entries, entries)
    assert circle(graph) is None
    assert depth(graph) <= DEEPEST_LEVEL


def test_the_top_level_of_the_bridge_is_short() -> None:
    entries = [path.name for path in (ROOT / "firmware_bridge").iterdir() if path.name != "__pycache__"]
    assert len(entries) <= MOST_ENTRIES, sorted(entries)


def test_only_the_command_line_the_run_and_the_demo_import_both_policy_and_bridge() -> None:
    policy = [place for place in ALLOWED if place not in ("pi0_edge", "pi0_edge.protos", "firmware_bridge")]
    both = set()
    for module in modules():
        targets = own_imports(module) | {module}
        with_policy = any(inside(target, place) for target in targets for place in policy)
        if with_policy and any(inside(target, "firmware_bridge") for target in targets):
            both.add(place_of(module))
    # `pi0_edge` declares the public names of both.
    # `pi0_edge.deploy` reads the list of a bundle, and asks the bridge whether the arm is held.
    # `pi0_edge.bench` times the way of a chunk through both, `pi0_edge.comparison` plays heads through both.
    allowed_both = {"bench", "cli", "comparison", "demo", "deploy", "run"}
    assert both <= {"pi0_edge", *(f"pi0_edge.{name}" for name in allowed_both)}


def test_places_do_without_what_is_not_their_subject() -> None:
    found = []
    for module, path in modules().items():
        unwanted = set().union(*(names for place, names in FORBIDDEN.items() if inside(module, place)))
        found += [f"{module} imports {name}" for name in {name.split(".")[0] for name in imports(path)} & unwanted]
    assert found == []


def test_the_bridge_needs_mujoco_for_the_model_of_a_workspace_alone() -> None:
    """One module imports it, in the function that reads a model: a bridge without a workspace does without."""
    users = [
        (module, path)
        for module, path in modules().items()
        if inside(module, "firmware_bridge") and any(inside(name, "mujoco") for name in imports(path))
    ]
    assert [module for module, _ in users] == ["firmware_bridge.bridge.workspace.kinematics"]
    at_import = {id(node) for _, path in users for node in syntax(path).body}
    for _, path in users:
        for node in ast.walk(syntax(path)):
            if isinstance(node, ast.Import) and any(alias.name == "mujoco" for alias in node.names):
                assert id(node) not in at_import


def test_the_model_imports_torch_and_nothing_else() -> None:
    known = {"pi0_edge", "torch", *sys.stdlib_module_names}
    found = {
        module: foreign
        for module, path in modules().items()
        if inside(module, "pi0_edge.model") and (foreign := {name.split(".")[0] for name in imports(path)} - known)
    }
    assert found == {}


def test_quant_and_protos_are_imported_as_parts_of_pi0_edge() -> None:
    """Under their bare names they would be other modules with other classes, or another project's packages."""
    bare = {
        relative(path): names
        for path in python_files()
        if (names := {name for name in imports(path) if name.split(".")[0] in ("quant", "protos")})
    }
    assert bare == {}


def test_every_module_is_visited_once() -> None:
    found = list(modules().values())
    assert len(set(map(Path.resolve, found))) == len(found)
    assert {"pi0_edge.quant", "pi0_edge.protos", "firmware_bridge", "pi0_edge"} <= set(modules())


def test_a_circle_and_a_depth_are_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) is None
    assert depth({"a": {"b", "c"}, "b": {"c"}}) == 3
