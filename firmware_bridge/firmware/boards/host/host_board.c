#include "host_board.h"

#include <string.h>

#include "board.h"

enum { SENT_SIZE = 1 << 20 };

static struct control control;
static uint64_t counter;
static bool estop_pressed;
static struct joint_measurement measured[LINK_MAX_JOINTS];
static enum { ASSUMED, PLACED, NEAR } measured_how[LINK_MAX_JOINTS];
static uint8_t sent[SENT_SIZE];
static size_t sent_size;
static size_t sent_limit = SENT_SIZE;

void host_reset(uint8_t cause)
{
    counter = 0;
    estop_pressed = false;
    memset(measured_how, 0, sizeof measured_how);
    sent_size = 0;
    sent_limit = SENT_SIZE;
    control_init(&control, &joint_table, (enum link_reset_cause)cause, HOST_COUNTER_HZ);
    control_set_epoch(&control, 0);
}

struct control *host_control(void)
{
    return &control;
}

size_t host_control_size(void)
{
    return sizeof control;
}

void host_copy_motion(struct joint_motion motion[LINK_MAX_JOINTS])
{
    memcpy(motion, control.motion, sizeof control.motion);
}

void host_measure(uint8_t joint, const struct joint_measurement *measurement)
{
    measured[joint] = *measurement;
    measured_how[joint] = PLACED;
}

void host_measure_near(uint8_t joint, const struct joint_measurement *measurement)
{
    measured[joint] = *measurement;
    measured_how[joint] = NEAR;
}

void host_set_counter(uint64_t value)
{
    counter = value;
}

void host_press_estop(bool pressed)
{
    estop_pressed = pressed;
}

void host_tick(uint32_t tick)
{
    host_servo(tick, 0);
}

void host_servo(uint32_t tick, uint32_t step)
{
    counter = ((uint64_t)tick * control.servo_steps + step) * control.servo_period;
    application_servo();
}

void host_receive(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        application_receive(data[i]);
    }
}

void host_poll(void)
{
    control_poll(&control);
}

size_t host_take_sent(uint8_t *out, size_t capacity)
{
    const size_t size = sent_size < capacity ? sent_size : capacity;
    memcpy(out, sent, size);
    memmove(sent, sent + size, sent_size - size);
    sent_size -= size;
    return size;
}

void host_limit_sending(size_t capacity)
{
    sent_limit = capacity < SENT_SIZE ? capacity : SENT_SIZE;
}

static void measure(void)
{
    for (uint8_t i = 0; i < control.table->count; i++) {
        const float commanded = control.motion[i].position;
        const struct joint_measurement assumed = {.position = commanded};
        control.measured[i] = measured_how[i] == ASSUMED ? assumed : measured[i];
        control.measured[i].position += measured_how[i] == NEAR ? commanded : 0.0f;
    }
}

void application_servo(void)
{
    measure();
    control_servo(&control, board_counter(), board_estop_pressed());
}

void application_receive(uint8_t byte)
{
    control_receive_byte(&control, byte);
}

void application_receive_lost(void)
{
    control.receive_overruns++;
}

uint64_t board_counter(void)
{
    return counter;
}

bool board_estop_pressed(void)
{
    return estop_pressed;
}

uint32_t board_mask_servo(void)
{
    return 0;
}

void board_unmask_servo(uint32_t masked)
{
    (void)masked;
}

size_t board_uart_write(const uint8_t *data, size_t size)
{
    const size_t room = sent_limit > sent_size ? sent_limit - sent_size : 0;
    const size_t taken = size < room ? size : room;
    memcpy(sent + sent_size, data, taken);
    sent_size += taken;
    return taken;
}
