"""A robot's run in ten lines: checks everything, arms, plays for a minute, disarms.

    pi0-edge bridge --port /dev/ttyACM0 --robot so101      # first: the microcontroller
    python examples/python/run_policy.py so101.yaml bundles/cups cameras.yaml "Stack the cups"

Ctrl-C disarms, too.
"""

# --8<-- [start:run]
import sys

from pi0_edge import Policy, RobotRun

robot, bundle, cameras, prompt = sys.argv[1:5]
policy = Policy.from_bundle(bundle)
with RobotRun(robot, policy, cameras, bridge="127.0.0.1:50061") as run:
    result = run.play(prompt, seconds=60)
print(result.outcome.name, result.reason)
# --8<-- [end:run]
