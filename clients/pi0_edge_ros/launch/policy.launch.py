"""Starts the node with a file of parameters: `ros2 launch pi0_edge_ros policy.launch.py parameters:=FILE`.

The node starts unconfigured: a person, or a life cycle manager, takes it through *configure* and *activate*.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# launch comes from the ROS distribution.

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode


def generate_launch_description() -> LaunchDescription:
    """The node, with its name, its namespace and its parameters as arguments."""
    shipped = str(Path(get_package_share_directory("pi0_edge_ros")) / "config" / "policy.yaml")
    return LaunchDescription(
        [
            DeclareLaunchArgument("parameters", default_value=shipped, description="YAML file of parameters"),
            DeclareLaunchArgument("namespace", default_value="", description="namespace of the node"),
            DeclareLaunchArgument("use_sim_time", default_value="false", description="take the time from /clock"),
            LifecycleNode(
                package="pi0_edge_ros",
                executable="policy_node",
                name="pi0_edge_policy",
                namespace=LaunchConfiguration("namespace"),
                parameters=[LaunchConfiguration("parameters"), {"use_sim_time": LaunchConfiguration("use_sim_time")}],
                output="screen",
            ),
        ]
    )
