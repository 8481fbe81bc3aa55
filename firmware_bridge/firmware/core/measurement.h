/* What is known of each joint from its servos. */
#ifndef MEASUREMENT_H
#define MEASUREMENT_H

#include <stdint.h>

enum { MEASUREMENT_TOO_OLD = 255 };

/* Of several servos of a joint: the position and current of the one that is commanded, the highest temperature, the
 * lowest voltage, and the errors of all. A back end without encoders reports the commanded position, without
 * LINK_JOINT_FLAG_MEASURED. */
struct joint_measurement {
    float position;      /* in the joint's unit */
    float current;       /* ampere */
    float volts;         /* 0 where it was never read */
    uint8_t temperature; /* degrees Celsius; 0 where it was never read */
    uint8_t flags;       /* bits of LINK_JOINT_FLAG */
    uint8_t age;         /* of the position, in servo steps; MEASUREMENT_TOO_OLD where it is older or there is none */
};

#endif
