"""A ROS 2 node between cameras, joint states and a trajectory controller on one side and a policy server on the other.

`node` alone imports rclpy; everything else takes messages by their fields and runs without ROS. Nothing needs torch.
"""
