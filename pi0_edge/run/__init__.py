"""The robot's loop: observe, ask the policy, play its chunks through the bridge, and watch what happens."""
