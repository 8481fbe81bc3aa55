/* Joint table of so101, generated from its robot file by
 * `python -m firmware_bridge.firmware.generate_joints`. Do not edit. */
#include "joint_table.h"

static const struct joint joints[] = {
    {
        .name = "shoulder_pan",
        .unit = "rad",
        .minimum = -1.90999997f,
        .maximum = 1.90999997f,
        .velocity = 4.0f,
        .acceleration = 60.0f,
        .home = 0.0f,
        .resolution = 9.99999975e-05f,
    },
    {
        .name = "shoulder_lift",
        .unit = "rad",
        .minimum = -1.74000001f,
        .maximum = 1.74000001f,
        .velocity = 4.0f,
        .acceleration = 60.0f,
        .home = 0.0f,
        .resolution = 9.99999975e-05f,
    },
    {
        .name = "elbow_flex",
        .unit = "rad",
        .minimum = -1.69000006f,
        .maximum = 1.69000006f,
        .velocity = 4.0f,
        .acceleration = 60.0f,
        .home = 0.0f,
        .resolution = 9.99999975e-05f,
    },
    {
        .name = "wrist_flex",
        .unit = "rad",
        .minimum = -1.64999998f,
        .maximum = 1.64999998f,
        .velocity = 4.0f,
        .acceleration = 60.0f,
        .home = 0.0f,
        .resolution = 9.99999975e-05f,
    },
    {
        .name = "wrist_roll",
        .unit = "rad",
        .minimum = -2.74000001f,
        .maximum = 2.83999991f,
        .velocity = 4.0f,
        .acceleration = 60.0f,
        .home = 0.0f,
        .resolution = 9.99999975e-05f,
    },
    {
        .name = "gripper",
        .unit = "ratio",
        .minimum = 0.0f,
        .maximum = 1.0f,
        .velocity = 5.0f,
        .acceleration = 100.0f,
        .home = 0.0f,
        .resolution = 9.99999975e-05f,
    },
};

const struct joint_table joint_table = {
    .robot = "so101",
    .control_hz = 50,
    .servo_hz = 250,
    .count = sizeof joints / sizeof joints[0],
    .joints = joints,
};
