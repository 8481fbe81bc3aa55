/* Messages of the serial link, generated from protos/serial_link.yaml by
 * `python -m pi0_edge.protos.codegen.generate`. Do not edit.
 * link_pack_* return the bytes written, or 0 where the tail is too long; link_unpack_* return false where the sizes
 * disagree. */
#ifndef SERIAL_LINK_H
#define SERIAL_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LINK_VERSION 2u
#define LINK_MAX_FRAME 240u
#define LINK_MAX_JOINTS 32u
#define LINK_MAX_HORIZON 64u
#define LINK_RING_DEPTH 128u
#define LINK_NO_JOINT 255u
#define LINK_HEADER_SIZE 3u
#define LINK_CRC_SIZE 4u
#define LINK_MAX_PAYLOAD 233u
#define LINK_SCHEMA_HASH 0x47358503u
#define LINK_HELLO_ID 0x01u
#define LINK_PING_ID 0x02u
#define LINK_COMMAND_REQUEST_ID 0x03u
#define LINK_FRAGMENT_ID 0x04u
#define LINK_FRAGMENT_FIXED_SIZE 18u
#define LINK_FRAGMENT_CAPACITY 107u
#define LINK_WELCOME_ID 0x81u
#define LINK_PONG_ID 0x82u
#define LINK_COMMAND_REPLY_ID 0x83u
#define LINK_CHUNK_REPLY_ID 0x84u
#define LINK_TELEMETRY_ID 0x85u
#define LINK_TELEMETRY_FIXED_SIZE 28u
#define LINK_TELEMETRY_CAPACITY 51u
#define LINK_MEASURED_ID 0x87u
#define LINK_MEASURED_FIXED_SIZE 6u
#define LINK_MEASURED_CAPACITY 113u
#define LINK_HEALTH_ID 0x88u
#define LINK_HEALTH_FIXED_SIZE 6u
#define LINK_HEALTH_CAPACITY 227u
#define LINK_COUNTERS_ID 0x86u

enum link_state {
    LINK_STATE_DISARMED = 0,
    LINK_STATE_ARMED = 1,
    LINK_STATE_RUNNING = 2,
    LINK_STATE_STARVED = 3,
    LINK_STATE_SAFE = 4,
    LINK_STATE_ESTOP = 5,
};

enum link_command_result {
    LINK_COMMAND_RESULT_OK = 0,
    LINK_COMMAND_RESULT_WRONG_STATE = 1,
    LINK_COMMAND_RESULT_NO_HEARTBEAT = 2,
    LINK_COMMAND_RESULT_UNKNOWN_COMMAND = 3,
    LINK_COMMAND_RESULT_NOT_MEASURED = 4,
    LINK_COMMAND_RESULT_OUTSIDE_LIMITS = 5,
};

enum link_chunk_result {
    LINK_CHUNK_RESULT_ACCEPTED = 0,
    LINK_CHUNK_RESULT_INCOMPLETE = 1,
    LINK_CHUNK_RESULT_LATE = 2,
    LINK_CHUNK_RESULT_STALE = 3,
    LINK_CHUNK_RESULT_TOO_FAR_AHEAD = 4,
    LINK_CHUNK_RESULT_NOT_ARMED = 5,
    LINK_CHUNK_RESULT_WRONG_SHAPE = 6,
    LINK_CHUNK_RESULT_OUT_OF_RANGE = 7,
    LINK_CHUNK_RESULT_OUT_OF_REACH = 8,
};

enum link_command {
    LINK_COMMAND_ARM = 1,
    LINK_COMMAND_DISARM = 2,
    LINK_COMMAND_CLEAR = 3,
    LINK_COMMAND_ESTOP = 4,
    LINK_COMMAND_RELEASE = 5,
};

enum link_measured_row {
    LINK_MEASURED_ROW_POSITION = 0,
    LINK_MEASURED_ROW_CURRENT = 1,
    LINK_MEASURED_ROW_CONDITION = 2,
};

enum link_health_row {
    LINK_HEALTH_ROW_TEMPERATURE = 0,
    LINK_HEALTH_ROW_VOLTAGE = 1,
};

enum link_reset_cause {
    LINK_RESET_CAUSE_POWER_ON = 0,
    LINK_RESET_CAUSE_WATCHDOG = 1,
    LINK_RESET_CAUSE_SOFTWARE = 2,
    LINK_RESET_CAUSE_UNKNOWN = 3,
};

enum link_fault {
    LINK_FAULT_STARVATION = 1u << 0,
    LINK_FAULT_HEARTBEAT = 1u << 1,
    LINK_FAULT_LIMIT_SATURATION = 1u << 2,
    LINK_FAULT_ESTOP_COMMAND = 1u << 3,
    LINK_FAULT_ESTOP_PIN = 1u << 4,
    LINK_FAULT_WATCHDOG_RESET = 1u << 5,
    LINK_FAULT_TICK_OVERRUN = 1u << 6,
    LINK_FAULT_FOLLOWING_ERROR = 1u << 7,
    LINK_FAULT_CONTACT = 1u << 8,
    LINK_FAULT_TEMPERATURE = 1u << 9,
    LINK_FAULT_VOLTAGE = 1u << 10,
    LINK_FAULT_BUS_SILENT = 1u << 11,
    LINK_FAULT_SERVO_ERROR = 1u << 12,
};

enum link_tick_flag {
    LINK_TICK_FLAG_EXECUTED = 1u << 0,
    LINK_TICK_FLAG_STARVED = 1u << 1,
    LINK_TICK_FLAG_POSITION_LIMITED = 1u << 2,
    LINK_TICK_FLAG_VELOCITY_LIMITED = 1u << 3,
    LINK_TICK_FLAG_ACCELERATION_LIMITED = 1u << 4,
    LINK_TICK_FLAG_TICKS_MISSED = 1u << 5,
};

enum link_joint_flag {
    LINK_JOINT_FLAG_MEASURED = 1u << 0,
    LINK_JOINT_FLAG_TORQUE = 1u << 1,
    LINK_JOINT_FLAG_VOLTAGE = 1u << 2,
    LINK_JOINT_FLAG_OVERHEATED = 1u << 3,
    LINK_JOINT_FLAG_OVERLOADED = 1u << 4,
    LINK_JOINT_FLAG_ENCODER = 1u << 5,
    LINK_JOINT_FLAG_RESTARTED = 1u << 6,
};

static inline uint8_t *link_put(uint8_t *out, uint64_t value, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        out[i] = (uint8_t)(value >> (8u * i));
    }
    return out + size;
}

static inline uint64_t link_get(const uint8_t *in, size_t size)
{
    uint64_t value = 0;
    for (size_t i = 0; i < size; i++) {
        value |= (uint64_t)in[i] << (8u * i);
    }
    return value;
}

static inline uint64_t link_bits_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float link_float_of_bits(uint64_t value)
{
    uint32_t bits = (uint32_t)value;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

static inline int16_t link_signed(uint64_t value)
{
    int32_t wide = (int32_t)value;
    return (int16_t)(wide < 0x8000 ? wide : wide - 0x10000);
}

struct link_header {
    uint8_t type;
    uint16_t seq;
};

static inline size_t link_pack_header(const struct link_header *message, uint8_t *out)
{
    uint8_t *end = out;
    end = link_put(end, message->type, 1);
    end = link_put(end, message->seq, 2);
    return (size_t)(end - out);
}

static inline bool link_unpack_header(struct link_header *message, const uint8_t *in, size_t size)
{
    if (size != 3u) {
        return false;
    }
    message->type = (uint8_t)link_get(in + 0, 1);
    message->seq = (uint16_t)link_get(in + 1, 2);
    return true;
}

struct link_hello {
    uint32_t schema_hash;
};

static inline size_t link_pack_hello(const struct link_hello *message, uint8_t *out)
{
    uint8_t *end = out;
    end = link_put(end, message->schema_hash, 4);
    return (size_t)(end - out);
}

static inline bool link_unpack_hello(struct link_hello *message, const uint8_t *in, size_t size)
{
    if (size != 4u) {
        return false;
    }
    message->schema_hash = (uint32_t)link_get(in + 0, 4);
    return true;
}

struct link_ping {
    uint32_t ping_id;
    uint64_t host_time_us;
};

static inline size_t link_pack_ping(const struct link_ping *message, uint8_t *out)
{
    uint8_t *end = out;
    end = link_put(end, message->ping_id, 4);
    end = link_put(end, message->host_time_us, 8);
    return (size_t)(end - out);
}

static inline bool link_unpack_ping(struct link_ping *message, const uint8_t *in, size_t size)
{
    if (size != 12u) {
        return false;
    }
    message->ping_id = (uint32_t)link_get(in + 0, 4);
    message->host_time_us = (uint64_t)link_get(in + 4, 8);
    return true;
}

struct link_command_request {
    uint32_t nonce;
    uint8_t command;
};

static inline size_t link_pack_command_request(const struct link_command_request *message, uint8_t *out)
{
    uint8_t *end = out;
    end = link_put(end, message->nonce, 4);
    end = link_put(end, message->command, 1);
    return (size_t)(end - out);
}

static inline bool link_unpack_command_request(struct link_command_request *message, const uint8_t *in, size_t size)
{
    if (size != 5u) {
        return false;
    }
    message->nonce = (uint32_t)link_get(in + 0, 4);
    message->command = (uint8_t)link_get(in + 4, 1);
    return true;
}

struct link_fragment {
    uint32_t chunk_id;
    uint32_t first_tick;
    uint32_t observed_tick;
    uint8_t step_count;
    uint8_t fragment_index;
    uint8_t fragment_count;
    uint8_t first_step;
    uint8_t steps;
    uint8_t joints;
    int16_t values[107];
};

static inline size_t link_pack_fragment(const struct link_fragment *message, uint8_t *out)
{
    const size_t count = (size_t)message->steps * (size_t)message->joints;
    if (count > 107u) {
        return 0;
    }
    uint8_t *end = out;
    end = link_put(end, message->chunk_id, 4);
    end = link_put(end, message->first_tick, 4);
    end = link_put(end, message->observed_tick, 4);
    end = link_put(end, message->step_count, 1);
    end = link_put(end, message->fragment_index, 1);
    end = link_put(end, message->fragment_count, 1);
    end = link_put(end, message->first_step, 1);
    end = link_put(end, message->steps, 1);
    end = link_put(end, message->joints, 1);
    for (size_t i = 0; i < count; i++) {
        end = link_put(end, (uint16_t)message->values[i], 2);
    }
    return (size_t)(end - out);
}

static inline bool link_unpack_fragment(struct link_fragment *message, const uint8_t *in, size_t size)
{
    if (size < 18u) {
        return false;
    }
    message->chunk_id = (uint32_t)link_get(in + 0, 4);
    message->first_tick = (uint32_t)link_get(in + 4, 4);
    message->observed_tick = (uint32_t)link_get(in + 8, 4);
    message->step_count = (uint8_t)link_get(in + 12, 1);
    message->fragment_index = (uint8_t)link_get(in + 13, 1);
    message->fragment_count = (uint8_t)link_get(in + 14, 1);
    message->first_step = (uint8_t)link_get(in + 15, 1);
    message->steps = (uint8_t)link_get(in + 16, 1);
    message->joints = (uint8_t)link_get(in + 17, 1);
    const size_t count = (size_t)message->steps * (size_t)message->joints;
    if (count > 107u || size != 18u + 2u * count) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        message->values[i] = link_signed(link_get(in + 18u + 2u * i, 2));
    }
    return true;
}

struct link_welcome {
    uint32_t schema_hash;
    uint32_t limits_hash;
    uint32_t tick_period_us;
    uint32_t counter_hz;
    uint16_t ring_depth;
    uint16_t receive_window;
    uint8_t joints;
    uint8_t reset_cause;
};

static inline size_t link_pack_welcome(const struct link_welcome *message, uint8_t *out)
{
    uint8_t *end = out;
    end = link_put(end, message->schema_hash, 4);
    end = link_put(end, message->limits_hash, 4);
    end = link_put(end, message->tick_period_us, 4);
    end = link_put(end, message->counter_hz, 4);
    end = link_put(end, message->ring_depth, 2);
    end = link_put(end, message->receive_window, 2);
    end = link_put(end, message->joints, 1);
    end = link_put(end, message->reset_cause, 1);
    return (size_t)(end - out);
}

static inline bool link_unpack_welcome(struct link_welcome *message, const uint8_t *in, size_t size)
{
    if (size != 22u) {
        return false;
    }
    message->schema_hash = (uint32_t)link_get(in + 0, 4);
    message->limits_hash = (uint32_t)link_get(in + 4, 4);
    message->tick_period_us = (uint32_t)link_get(in + 8, 4);
    message->counter_hz = (uint32_t)link_get(in + 12, 4);
    message->ring_depth = (uint16_t)link_get(in + 16, 2);
    message->receive_window = (uint16_t)link_get(in + 18, 2);
    message->joints = (uint8_t)link_get(in + 20, 1);
    message->reset_cause = (uint8_t)link_get(in + 21, 1);
    return true;
}

struct link_pong {
    uint32_t ping_id;
    uint64_t host_time_us;
    uint64_t counter;
    uint32_t tick;
};

static inline size_t link_pack_pong(const struct link_pong *message, uint8_t *out)
{
    uint8_t *end = out;
    end = link_put(end, message->ping_id, 4);
    end = link_put(end, message->host_time_us, 8);
    end = link_put(end, message->counter, 8);
    end = link_put(end, message->tick, 4);
    return (size_t)(end - out);
}

static inline bool link_unpack_pong(struct link_pong *message, const uint8_t *in, size_t size)
{
    if (size != 24u) {
        return false;
    }
    message->ping_id = (uint32_t)link_get(in + 0, 4);
    message->host_time_us = (uint64_t)link_get(in + 4, 8);
    message->counter = (uint64_t)link_get(in + 12, 8);
    message->tick = (uint32_t)link_get(in + 20, 4);
    return true;
}

struct link_command_reply {
    uint32_t nonce;
    uint8_t command;
    uint8_t result;
    uint8_t state;
    uint8_t joint;
};

static inline size_t link_pack_command_reply(const struct link_command_reply *message, uint8_t *out)
{
    uint8_t *end = out;
    end = link_put(end, message->nonce, 4);
    end = link_put(end, message->command, 1);
    end = link_put(end, message->result, 1);
    end = link_put(end, message->state, 1);
    end = link_put(end, message->joint, 1);
    return (size_t)(end - out);
}

static inline bool link_unpack_command_reply(struct link_command_reply *message, const uint8_t *in, size_t size)
{
    if (size != 8u) {
        return false;
    }
    message->nonce = (uint32_t)link_get(in + 0, 4);
    message->command = (uint8_t)link_get(in + 4, 1);
    message->result = (uint8_t)link_get(in + 5, 1);
    message->state = (uint8_t)link_get(in + 6, 1);
    message->joint = (uint8_t)link_get(in + 7, 1);
    return true;
}

struct link_chunk_reply {
    uint32_t chunk_id;
    uint32_t received;
    uint32_t tick;
    uint8_t result;
    uint8_t joint;
};

static inline size_t link_pack_chunk_reply(const struct link_chunk_reply *message, uint8_t *out)
{
    uint8_t *end = out;
    end = link_put(end, message->chunk_id, 4);
    end = link_put(end, message->received, 4);
    end = link_put(end, message->tick, 4);
    end = link_put(end, message->result, 1);
    end = link_put(end, message->joint, 1);
    return (size_t)(end - out);
}

static inline bool link_unpack_chunk_reply(struct link_chunk_reply *message, const uint8_t *in, size_t size)
{
    if (size != 14u) {
        return false;
    }
    message->chunk_id = (uint32_t)link_get(in + 0, 4);
    message->received = (uint32_t)link_get(in + 4, 4);
    message->tick = (uint32_t)link_get(in + 8, 4);
    message->result = (uint8_t)link_get(in + 12, 1);
    message->joint = (uint8_t)link_get(in + 13, 1);
    return true;
}

struct link_telemetry {
    uint32_t tick;
    uint64_t counter;
    uint32_t chunk_id;
    uint32_t observed_tick;
    uint16_t faults;
    uint16_t ring_level;
    uint8_t state;
    uint8_t flags;
    uint8_t fault_joint;
    uint8_t joints;
    float executed[51];
};

static inline size_t link_pack_telemetry(const struct link_telemetry *message, uint8_t *out)
{
    const size_t count = (size_t)message->joints;
    if (count > 51u) {
        return 0;
    }
    uint8_t *end = out;
    end = link_put(end, message->tick, 4);
    end = link_put(end, message->counter, 8);
    end = link_put(end, message->chunk_id, 4);
    end = link_put(end, message->observed_tick, 4);
    end = link_put(end, message->faults, 2);
    end = link_put(end, message->ring_level, 2);
    end = link_put(end, message->state, 1);
    end = link_put(end, message->flags, 1);
    end = link_put(end, message->fault_joint, 1);
    end = link_put(end, message->joints, 1);
    for (size_t i = 0; i < count; i++) {
        end = link_put(end, link_bits_of_float(message->executed[i]), 4);
    }
    return (size_t)(end - out);
}

static inline bool link_unpack_telemetry(struct link_telemetry *message, const uint8_t *in, size_t size)
{
    if (size < 28u) {
        return false;
    }
    message->tick = (uint32_t)link_get(in + 0, 4);
    message->counter = (uint64_t)link_get(in + 4, 8);
    message->chunk_id = (uint32_t)link_get(in + 12, 4);
    message->observed_tick = (uint32_t)link_get(in + 16, 4);
    message->faults = (uint16_t)link_get(in + 20, 2);
    message->ring_level = (uint16_t)link_get(in + 22, 2);
    message->state = (uint8_t)link_get(in + 24, 1);
    message->flags = (uint8_t)link_get(in + 25, 1);
    message->fault_joint = (uint8_t)link_get(in + 26, 1);
    message->joints = (uint8_t)link_get(in + 27, 1);
    const size_t count = (size_t)message->joints;
    if (count > 51u || size != 28u + 4u * count) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        message->executed[i] = link_float_of_bits(link_get(in + 28u + 4u * i, 4));
    }
    return true;
}

struct link_measured {
    uint32_t tick;
    uint8_t rows;
    uint8_t joints;
    int16_t values[113];
};

static inline size_t link_pack_measured(const struct link_measured *message, uint8_t *out)
{
    const size_t count = (size_t)message->rows * (size_t)message->joints;
    if (count > 113u) {
        return 0;
    }
    uint8_t *end = out;
    end = link_put(end, message->tick, 4);
    end = link_put(end, message->rows, 1);
    end = link_put(end, message->joints, 1);
    for (size_t i = 0; i < count; i++) {
        end = link_put(end, (uint16_t)message->values[i], 2);
    }
    return (size_t)(end - out);
}

static inline bool link_unpack_measured(struct link_measured *message, const uint8_t *in, size_t size)
{
    if (size < 6u) {
        return false;
    }
    message->tick = (uint32_t)link_get(in + 0, 4);
    message->rows = (uint8_t)link_get(in + 4, 1);
    message->joints = (uint8_t)link_get(in + 5, 1);
    const size_t count = (size_t)message->rows * (size_t)message->joints;
    if (count > 113u || size != 6u + 2u * count) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        message->values[i] = link_signed(link_get(in + 6u + 2u * i, 2));
    }
    return true;
}

struct link_health {
    uint32_t tick;
    uint8_t rows;
    uint8_t joints;
    uint8_t values[227];
};

static inline size_t link_pack_health(const struct link_health *message, uint8_t *out)
{
    const size_t count = (size_t)message->rows * (size_t)message->joints;
    if (count > 227u) {
        return 0;
    }
    uint8_t *end = out;
    end = link_put(end, message->tick, 4);
    end = link_put(end, message->rows, 1);
    end = link_put(end, message->joints, 1);
    for (size_t i = 0; i < count; i++) {
        end = link_put(end, message->values[i], 1);
    }
    return (size_t)(end - out);
}

static inline bool link_unpack_health(struct link_health *message, const uint8_t *in, size_t size)
{
    if (size < 6u) {
        return false;
    }
    message->tick = (uint32_t)link_get(in + 0, 4);
    message->rows = (uint8_t)link_get(in + 4, 1);
    message->joints = (uint8_t)link_get(in + 5, 1);
    const size_t count = (size_t)message->rows * (size_t)message->joints;
    if (count > 227u || size != 6u + 1u * count) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        message->values[i] = (uint8_t)link_get(in + 6u + 1u * i, 1);
    }
    return true;
}

struct link_counters {
    uint32_t frames_received;
    uint32_t crc_errors;
    uint32_t framing_errors;
    uint32_t duplicate_frames;
    uint32_t sequence_gaps;
    uint32_t receive_overruns;
    uint32_t chunks_accepted;
    uint32_t chunks_refused;
    uint32_t starved_ticks;
    uint32_t limited_ticks;
    uint32_t missed_ticks;
    uint32_t bus_errors;
};

static inline size_t link_pack_counters(const struct link_counters *message, uint8_t *out)
{
    uint8_t *end = out;
    end = link_put(end, message->frames_received, 4);
    end = link_put(end, message->crc_errors, 4);
    end = link_put(end, message->framing_errors, 4);
    end = link_put(end, message->duplicate_frames, 4);
    end = link_put(end, message->sequence_gaps, 4);
    end = link_put(end, message->receive_overruns, 4);
    end = link_put(end, message->chunks_accepted, 4);
    end = link_put(end, message->chunks_refused, 4);
    end = link_put(end, message->starved_ticks, 4);
    end = link_put(end, message->limited_ticks, 4);
    end = link_put(end, message->missed_ticks, 4);
    end = link_put(end, message->bus_errors, 4);
    return (size_t)(end - out);
}

static inline bool link_unpack_counters(struct link_counters *message, const uint8_t *in, size_t size)
{
    if (size != 48u) {
        return false;
    }
    message->frames_received = (uint32_t)link_get(in + 0, 4);
    message->crc_errors = (uint32_t)link_get(in + 4, 4);
    message->framing_errors = (uint32_t)link_get(in + 8, 4);
    message->duplicate_frames = (uint32_t)link_get(in + 12, 4);
    message->sequence_gaps = (uint32_t)link_get(in + 16, 4);
    message->receive_overruns = (uint32_t)link_get(in + 20, 4);
    message->chunks_accepted = (uint32_t)link_get(in + 24, 4);
    message->chunks_refused = (uint32_t)link_get(in + 28, 4);
    message->starved_ticks = (uint32_t)link_get(in + 32, 4);
    message->limited_ticks = (uint32_t)link_get(in + 36, 4);
    message->missed_ticks = (uint32_t)link_get(in + 40, 4);
    message->bus_errors = (uint32_t)link_get(in + 44, 4);
    return true;
}

#endif
