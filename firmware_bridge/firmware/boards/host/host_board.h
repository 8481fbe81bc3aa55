/* The board of the tests: the core as a library, with a counter and an e-stop that the test sets. */
#ifndef HOST_BOARD_H
#define HOST_BOARD_H

#include "control.h"

enum { HOST_COUNTER_HZ = 25000000 };

/* Restarts the controller, as a reset with this cause does. */
void host_reset(uint8_t cause);

/* The controller, for tests in C, and its size: a copy of its bytes brings it back to where it was. And how its joints
 * move, for tests in Python. */
struct control *host_control(void);
size_t host_control_size(void);
void host_copy_motion(struct joint_motion motion[LINK_MAX_JOINTS]);

/* What the servos of one joint measure from now on, until the next reset: its position, or how far it is from where it is
 * commanded. Joints that were never set here are taken to be where they are commanded, as with servos without encoders. */
void host_measure(uint8_t joint, const struct joint_measurement *measured);
void host_measure_near(uint8_t joint, const struct joint_measurement *measured);

void host_set_counter(uint64_t counter);
void host_press_estop(bool pressed);

/* Moves the counter to the beginning of `tick`, or of one of its servo steps, and lets the servo interrupt run. */
void host_tick(uint32_t tick);
void host_servo(uint32_t tick, uint32_t step);

/* Lets the UART interrupt take bytes, or the main loop run once. */
void host_receive(const uint8_t *data, size_t size);
void host_poll(void);

/* Takes what was sent: returns the bytes copied to `out`. */
size_t host_take_sent(uint8_t *out, size_t capacity);

/* How many bytes the UART accepts before it is full, until host_take_sent empties it. */
void host_limit_sending(size_t capacity);

#endif
