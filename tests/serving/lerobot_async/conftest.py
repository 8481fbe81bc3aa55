from __future__ import annotations

from collections.abc import Iterator

import pytest
from lerobot_stand_in import LerobotStandIn

from pi0_edge.robots import load_robot


@pytest.fixture(scope="package")
def stand_in(tmp_path_factory) -> Iterator[LerobotStandIn]:
    joints = [joint.name for joint in load_robot("aloha_sim").joints]
    made = LerobotStandIn(tmp_path_factory.mktemp("lerobot"), joints)
    yield made
    made.close()
