"""torchvision for LeRobot's modules, which import it, where it is missing: its asynchronous client does not use it."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from typing import Any


class Absent(types.ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class Absentees(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `Absent` for torchvision and everything in it."""

    def find_spec(self, fullname: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return Absent(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing."""


def allow_import() -> None:
    """From now on, LeRobot's client can be imported: torchvision as `Absent` if need be, and no transformers."""
    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.append(Absentees())
    sys.modules["transformers"] = None  # pyright: ignore[reportArgumentType]  # LeRobot takes another version than we do
