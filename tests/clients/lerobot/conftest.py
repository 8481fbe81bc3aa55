"""Makes the modules of the plugin importable that do not need LeRobot, which this environment may lack."""

from __future__ import annotations

import sys
import types
from pathlib import Path

PLUGIN = Path(__file__).parents[3] / "clients" / "lerobot_policy_pi0_edge" / "lerobot_policy_pi0_edge"

if PLUGIN.name not in sys.modules:
    package = types.ModuleType(PLUGIN.name)  # without its __init__, which imports LeRobot
    package.__path__ = [str(PLUGIN)]
    sys.modules[PLUGIN.name] = package
