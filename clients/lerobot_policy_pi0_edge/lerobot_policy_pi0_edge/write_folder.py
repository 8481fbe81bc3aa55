# pyright: reportMissingImports=false
"""Writes the settings of a policy as a folder for `--policy.path`.

    python -m lerobot_policy_pi0_edge.write_folder FOLDER --server=robot:50051 --cameras='{"front": "top"}'

The flags are those of `--policy.…` without `policy.`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import draccus

from lerobot_policy_pi0_edge.configuration_pi0_edge import Pi0EdgeConfig
from lerobot_policy_pi0_edge.processor_pi0_edge import make_pi0_edge_pre_post_processors


def write_folder(folder: Path, config: Pi0EdgeConfig) -> None:
    """Writes `config.json` and the two pipelines that LeRobot wants beside it.

    Args:
        folder: New or existing; files of these names are replaced.
        config: The settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config._save_pretrained(folder)
    for pipeline in make_pi0_edge_pre_post_processors(config):
        pipeline.save_pretrained(folder, config_filename=f"{pipeline.name}.json")


def main() -> None:
    """The command."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m lerobot_policy_pi0_edge.write_folder FOLDER --server=host:port …")
    write_folder(Path(sys.argv[1]), draccus.parse(Pi0EdgeConfig, args=sys.argv[2:]))


if __name__ == "__main__":
    main()
