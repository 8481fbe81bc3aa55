"""The servos of an arm that a person moves by hand, read by the host itself, without goals and torque."""
