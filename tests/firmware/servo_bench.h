/* Two buses of servos without hardware: the board's bus functions, and servos that read what is sent to them and answer
 * from their registers. The test says how a request of its protocol is read and answered (`serve_packet`). */
#ifndef SERVO_BENCH_H
#define SERVO_BENCH_H

#include "actuators.h"
#include "board.h"
#include "cmocka_suite.h"

enum { BENCH_BUSES = 2, BENCH_BYTES = 2048, BENCH_IDS = 8 };

struct bench_servo {
    bool present;
    bool silences; /* while it is absent, those that are asked after it do not answer */
    uint8_t error; /* of its status packets */
    uint8_t registers[256];
};

static struct bench_bus {
    uint32_t baud;
    bool is_sending; /* takes nothing */
    bool echoes;
    unsigned writes;
    uint8_t sent[BENCH_BYTES]; /* the last write */
    size_t sent_size;
    uint8_t answers[BENCH_BYTES];
    size_t answers_size;
    struct bench_servo servos[BENCH_IDS];
} bench[BENCH_BUSES];

static void bench_answer(uint8_t bus, const uint8_t *data, size_t size)
{
    assert_true(bench[bus].answers_size + size <= BENCH_BYTES);
    memcpy(bench[bus].answers + bench[bus].answers_size, data, size);
    bench[bus].answers_size += size;
}

/* Executes the packet at `sent`, and answers it; returns its size. */
static size_t serve_packet(uint8_t bus, const uint8_t *sent);

void board_bus_start(uint8_t bus, uint32_t baud)
{
    bench[bus].baud = baud;
}

bool board_bus_write(uint8_t bus, const uint8_t *data, size_t size)
{
    struct bench_bus *line = &bench[bus];
    if (line->is_sending) {
        return false;
    }
    assert_true(size <= BENCH_BYTES);
    memcpy(line->sent, data, size);
    line->sent_size = size;
    line->writes++;
    if (line->echoes) {
        bench_answer(bus, data, size);
    }
    for (size_t at = 0; at < size;) {
        at += serve_packet(bus, line->sent + at);
    }
    return true;
}

size_t board_bus_read(uint8_t bus, uint8_t *data, size_t size)
{
    struct bench_bus *line = &bench[bus];
    const size_t taken = size < line->answers_size ? size : line->answers_size;
    memcpy(data, line->answers, taken);
    memmove(line->answers, line->answers + taken, line->answers_size - taken);
    line->answers_size -= taken;
    return taken;
}

static const struct joint bench_joints[] = {
    {.name = "waist", .unit = "rad", .minimum = -3.0f, .maximum = 3.0f, .home = 0.25f},
    {.name = "shoulder", .unit = "rad", .minimum = -3.0f, .maximum = 3.0f},
    {.name = "gripper", .unit = "ratio", .minimum = 0.0f, .maximum = 1.0f},
    {.name = "other", .unit = "rad", .minimum = -3.0f, .maximum = 3.0f},
};

/* Bus 0: the waist, the shoulder with a shadow, a gripper whose counts grow as it closes. Bus 1 has the first id
 * again. */
static const struct servo bench_servos[] = {
    {.bus = 0, .id = 1, .joint = 0, .zero = 2048.0f, .per_unit = 1000.0f, .current_unit = 0.001f},
    {.bus = 0, .id = 2, .joint = 1, .zero = 2048.0f, .per_unit = 1000.0f, .current_unit = 0.002f},
    {.bus = 0, .id = 3, .joint = 1, .is_shadow = true, .zero = 2048.0f, .per_unit = 1000.0f, .current_unit = 0.002f},
    {.bus = 0, .id = 4, .joint = 2, .zero = 3000.0f, .per_unit = -1000.0f, .current_unit = 0.001f},
    {.bus = 1, .id = 1, .joint = 3, .zero = 1000.0f, .per_unit = 500.0f},
};

enum { WAIST, SHOULDER, GRIPPER, OTHER, BENCH_JOINTS };

static struct joint_table bench_table = {
    .robot = "bench",
    .control_hz = 50,
    .servo_hz = 250,
    .count = BENCH_JOINTS,
    .joints = bench_joints,
    .servo_count = sizeof bench_servos / sizeof bench_servos[0],
    .servos = bench_servos,
    .bus = {.baud = 1000000, .buses = BENCH_BUSES, .measure_steps = 1},
};

static struct joint_measurement measured[LINK_MAX_JOINTS];
static struct joint_motion motion[LINK_MAX_JOINTS];
static enum torque torque;
static uint32_t missing; /* packets, in all */

static void step(void)
{
    missing += actuators_measure(&bench_table, measured);
    actuators_command(&bench_table, motion, torque);
}

static void steps(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        step();
    }
}

static int bench_start(void **state)
{
    (void)state;
    memset(bench, 0, sizeof bench);
    memset(motion, 0, sizeof motion);
    memset(measured, 0xAA, sizeof measured);
    torque = TORQUE_UNCHANGED;
    missing = 0;
    bench_table.bus.measure_steps = 1;
    for (uint8_t i = 0; i < bench_table.servo_count; i++) {
        bench[bench_servos[i].bus].servos[bench_servos[i].id].present = true;
    }
    actuators_start(&bench_table);
    return 0;
}

/* Whether the last write to a bus contains these bytes. */
static bool was_sent(uint8_t bus, const uint8_t *bytes, size_t size)
{
    for (size_t at = 0; at + size <= bench[bus].sent_size; at++) {
        if (memcmp(bench[bus].sent + at, bytes, size) == 0) {
            return true;
        }
    }
    return false;
}

/* Whether the joint has all these flags, of LINK_JOINT_FLAG. */
static bool has(uint8_t joint, unsigned flags)
{
    return (measured[joint].flags & flags) == flags;
}

static inline uint32_t next_random(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

#endif
