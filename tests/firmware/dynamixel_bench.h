/* Dynamixel servos on the bench: how they read what is sent to them, and answer. */
#ifndef DYNAMIXEL_BENCH_H
#define DYNAMIXEL_BENCH_H

#include "dynamixel_protocol.h"
#include "servo_bench.h"

enum { MODEL = 0, FIRMWARE = 6, TORQUE = 64, HARDWARE_ERROR = 70, GOAL = 116 };
enum { CURRENT = 126, POSITION = 132, VOLTS = 144 };
enum { XM430 = 1020, XL430_TWO = 1090 };

static struct bench_servo *servo(uint8_t bus, uint8_t id)
{
    return &bench[bus].servos[id];
}

static void put(struct bench_servo *at, uint8_t address, int32_t value, unsigned size)
{
    for (unsigned byte = 0; byte < size; byte++) {
        at->registers[address + byte] = (uint8_t)((uint32_t)value >> (8 * byte));
    }
}

static void write_registers(uint8_t bus, const uint8_t *parameters, size_t size)
{
    const uint8_t address = parameters[0];
    const uint8_t width = parameters[2];
    for (size_t at = 4; at < size; at += 1u + width) {
        memcpy(servo(bus, parameters[at])->registers + address, parameters + at + 1, width);
    }
}

static void answer_each(uint8_t bus, const uint8_t *parameters, size_t size)
{
    for (size_t at = 4; at < size; at++) {
        const struct bench_servo *asked = servo(bus, parameters[at]);
        if (!asked->present && asked->silences) {
            return;
        }
        if (asked->present) {
            uint8_t content[1 + DYNAMIXEL_MOST_DATA] = {asked->error};
            uint8_t packet[DYNAMIXEL_LONGEST];
            memcpy(content + 1, asked->registers + parameters[0], parameters[2]);
            bench_answer(bus, packet,
                         dynamixel_packet(parameters[at], DYNAMIXEL_STATUS, content, 1u + parameters[2], packet));
        }
    }
}

static void answer_together(uint8_t bus, const uint8_t *parameters, size_t size)
{
    const size_t count = size - 4;
    const size_t width = parameters[2];
    uint8_t packet[DYNAMIXEL_LONGEST_RECEIVED] = {0xFF, 0xFF, 0xFD, 0x00, 0xFE, (uint8_t)(1 + count * (width + 4)),
                                                  0, DYNAMIXEL_STATUS};
    size_t end = DYNAMIXEL_HEAD;
    for (size_t i = 0; i < count && servo(bus, parameters[4 + i])->present; i++) {
        const struct bench_servo *asked = servo(bus, parameters[4 + i]);
        packet[end++] = asked->error;
        packet[end++] = parameters[4 + i];
        memcpy(packet + end, asked->registers + parameters[0], width);
        end += width;
        const uint16_t crc = dynamixel_crc(0, packet, end);
        packet[end++] = (uint8_t)crc;
        packet[end++] = (uint8_t)(crc >> 8);
    }
    bench_answer(bus, packet, end);
}

static size_t serve_packet(uint8_t bus, const uint8_t *sent)
{
    const size_t length = sent[5];
    const size_t size = length - 3;
    const uint8_t *parameters = sent + DYNAMIXEL_HEAD;
    assert_int_equal(sent[4], DYNAMIXEL_BROADCAST);
    if (sent[7] == DYNAMIXEL_SYNC_WRITE) {
        write_registers(bus, parameters, size);
    } else if (sent[7] == DYNAMIXEL_SYNC_READ) {
        answer_each(bus, parameters, size);
    } else {
        assert_int_equal(sent[7], DYNAMIXEL_FAST_SYNC_READ);
        answer_together(bus, parameters, size);
    }
    return 7 + length;
}

static int setup(void **state)
{
    bench_start(state);
    for (uint8_t bus = 0; bus < BENCH_BUSES; bus++) {
        for (uint8_t id = 0; id < BENCH_IDS; id++) {
            put(servo(bus, id), MODEL, XL430_TWO, 2);
            put(servo(bus, id), VOLTS, 120, 2);
            put(servo(bus, id), VOLTS + 2, 30 + id, 1);
            put(servo(bus, id), POSITION, 2048, 4);
        }
    }
    return 0;
}

#endif
