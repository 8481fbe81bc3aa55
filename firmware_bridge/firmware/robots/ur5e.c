/* Joint table of ur5e, generated from its robot file by
 * `python -m firmware_bridge.firmware.generate_joints`. Do not edit. */
#include "joint_table.h"

static const struct joint joints[] = {
    {
        .name = "shoulder_pan",
        .unit = "rad",
        .minimum = -6.28310013f,
        .maximum = 6.28310013f,
        .velocity = 1.5f,
        .acceleration = 20.0f,
        .home = 0.0f,
        .resolution = 0.000199999995f,
    },
    {
        .name = "shoulder_lift",
        .unit = "rad",
        .minimum = -6.28310013f,
        .maximum = 6.28310013f,
        .velocity = 1.5f,
        .acceleration = 20.0f,
        .home = -1.57079995f,
        .resolution = 0.000199999995f,
    },
    {
        .name = "elbow",
        .unit = "rad",
        .minimum = -3.1415f,
        .maximum = 3.1415f,
        .velocity = 1.5f,
        .acceleration = 20.0f,
        .home = 1.57079995f,
        .resolution = 0.000199999995f,
    },
    {
        .name = "wrist_1",
        .unit = "rad",
        .minimum = -6.28310013f,
        .maximum = 6.28310013f,
        .velocity = 2.0f,
        .acceleration = 20.0f,
        .home = -1.57079995f,
        .resolution = 0.000199999995f,
    },
    {
        .name = "wrist_2",
        .unit = "rad",
        .minimum = -6.28310013f,
        .maximum = 6.28310013f,
        .velocity = 2.0f,
        .acceleration = 20.0f,
        .home = -1.57079995f,
        .resolution = 0.000199999995f,
    },
    {
        .name = "wrist_3",
        .unit = "rad",
        .minimum = -6.28310013f,
        .maximum = 6.28310013f,
        .velocity = 2.0f,
        .acceleration = 20.0f,
        .home = 0.0f,
        .resolution = 0.000199999995f,
    },
    {
        .name = "gripper",
        .unit = "ratio",
        .minimum = 0.0f,
        .maximum = 1.0f,
        .velocity = 4.0f,
        .acceleration = 40.0f,
        .home = 0.0f,
        .resolution = 9.99999975e-05f,
    },
};

const struct joint_table joint_table = {
    .robot = "ur5e",
    .control_hz = 20,
    .servo_hz = 200,
    .count = sizeof joints / sizeof joints[0],
    .joints = joints,
};
