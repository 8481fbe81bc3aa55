/* The program of every board: one controller, two interrupts, one loop. */
#include "actuators.h"
#include "board.h"
#include "control.h"

enum { WATCHDOG_MS = 500 };

static struct control control;
static volatile uint32_t servo_runs; /* counts interrupts, to detect that they stopped */

void application_servo(void)
{
    control.counters.bus_errors += actuators_measure(&joint_table, control.measured);
    control_servo(&control, board_counter(), board_estop_pressed());
    actuators_command(&joint_table, control.motion, control.torque);
    servo_runs++;
}

void application_receive(uint8_t byte)
{
    control_receive_byte(&control, byte);
}

void application_receive_lost(void)
{
    control.receive_overruns++;
}

static bool is_work_waiting(void)
{
    return !byte_queue_is_empty(&control.received);
}

/* Only the main loop reloads the watchdog, and only if the servo interrupt ran since the last reload. */
static void kick_watchdog(void)
{
    static uint32_t runs_seen;
    if (servo_runs != runs_seen) {
        runs_seen = servo_runs;
        board_watchdog_kick();
    }
}

int main(void)
{
    board_init();
    control_init(&control, &joint_table, board_reset_cause(), board_counter_hz());
    actuators_start(&joint_table);
    const uint64_t epoch = board_counter();
    control_set_epoch(&control, epoch);
    board_servo_start(epoch, control.servo_period);
    board_watchdog_start(WATCHDOG_MS);
    for (;;) {
        control_poll(&control);
        kick_watchdog();
        board_sleep_unless(is_work_waiting);
    }
}
