"""What was measured on one arm, put into a robot file: zero, direction and range of each joint.

`joint_calibration` computes the calibrated robot, `robot_text` writes it into the text of the file, and
`lerobot_file` reads what LeRobot measured. How it is measured is in `pi0_edge.run.calibration`.
"""
