"""Builds the ROS 2 package `pi0_edge_ros` (ament_python)."""

from setuptools import find_packages, setup

NAME = "pi0_edge_ros"

setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", ["launch/policy.launch.py"]),
        (f"share/{NAME}/config", ["config/policy.yaml"]),
    ],
    # The clients of pi0-edge are not in rosdep: pip install 'pi0-edge[bridge]' beside ROS.
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="The pi0-edge maintainers",
    maintainer_email="maintainers@pi0-edge.invalid",
    description="A lifecycle node that asks a pi0-edge policy server and publishes its chunks as joint trajectories.",
    license="Apache-2.0",
    entry_points={"console_scripts": [f"policy_node = {NAME}.node:main"]},
)
