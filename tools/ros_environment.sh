#!/bin/sh
# Makes the environment in which the tests of the ROS 2 node run: real rclpy and Fast DDS from wheels, and the
# simulated ALOHA, without torch.
# The wheels are a third party's build of ROS 2 Kilted for x86-64; a robot takes ROS from its distribution instead.
# PYTHON: the interpreter, 3.10 to 3.13. ROS_VENV: where the environment lies; its interpreter is then
# PI0_EDGE_ROS_PYTHON for the tests.
set -eu

python="${PYTHON:-python3}"
venv="${ROS_VENV:-.venv-ros}"
processor="$(uname -m)"
if [ "$processor" != x86_64 ]; then
    echo "The wheels of ROS 2 exist for x86_64 only, and this machine is $processor: the tests of the node are skipped." >&2
    exit 1
fi

echo "installing ROS 2 for the tests into $venv (some 300 MB)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
{
    # pi0-edge itself is not installed: the tests take it from the checkout, by PYTHONPATH.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        'ros-rclpy[fastrtps]==9.1.2' \
        'ros-sensor-msgs==5.5.1' 'ros-trajectory-msgs==5.5.1' 'ros-std-msgs==5.5.1' 'ros-std-srvs==5.5.1' \
        'ros-diagnostic-msgs==5.5.1' ros-lifecycle-msgs \
        'cyclonedds==11.0.1' \
        'numpy>=1.24' 'packaging>=23' 'pyyaml>=6' 'typer>=0.12' 'rich>=13' \
        'grpcio>=1.76' 'grpcio-health-checking>=1.76' 'protobuf>=6.31.1,<8' 'pillow>=10' 'prometheus-client>=0.20' &&
        # The simulated ALOHA, for the closed loop.
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            'mujoco==3.3.0' 'gymnasium==1.4.0' 'gym-aloha==0.1.5' 'dm_control==1.0.28' &&
        "$venv/bin/python" -c 'import rclpy, rclpy.lifecycle, sensor_msgs.msg, trajectory_msgs.msg, diagnostic_msgs.msg'
} || {
    echo "The installation stopped at the message above (no network? no space?). Run the same command again;" >&2
    echo "from scratch: rm -rf $venv" >&2
    exit 1
}
echo "export PI0_EDGE_ROS_PYTHON=\"$(cd "$venv" && pwd)/bin/python\""
