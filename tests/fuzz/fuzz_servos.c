/* Both receivers of servo packets against any bytes, and against those bytes as the data of an intact answer.
 *
 * The first byte says how often the receivers are reset in between. For any input, every answer that is found lies within
 * the packet of its receiver, and an intact answer after a reset is found exactly once. */
#include <string.h>

#include "dynamixel_protocol.h"
#include "feetech_protocol.h"
#include "fuzz_target.h"

enum { SERVO = 7, MOST_DATA = 15, ANSWER_SIZE = 15, OTHER_SIZE = 1, FAST_SIZE = 10 };

static struct dynamixel_receiver dynamixel;
static struct feetech_receiver feetech;

static bool is_within(const uint8_t *data, size_t size, const uint8_t *packet, size_t capacity)
{
    return data >= packet && data + size <= packet + capacity;
}

static unsigned take_dynamixel(uint8_t byte)
{
    unsigned found = 0;
    struct dynamixel_status status;
    if (dynamixel_receive(&dynamixel, byte)) {
        while (dynamixel_next(&dynamixel, FAST_SIZE, &status)) {
            require(is_within(status.data, status.size, dynamixel.packet, sizeof dynamixel.packet));
            found += status.id == SERVO;
        }
    }
    return found;
}

static unsigned take_feetech(uint8_t byte)
{
    unsigned found = 0;
    struct feetech_status status;
    if (feetech_receive(&feetech, byte)) {
        while (feetech_next(&feetech, ANSWER_SIZE, OTHER_SIZE, &status)) {
            require(status.size == ANSWER_SIZE || status.size == OTHER_SIZE);
            require(is_within(status.data, status.size, feetech.packet, sizeof feetech.packet));
            found += status.id == SERVO;
        }
    }
    return found;
}

/* An intact answer with this data, to receivers that have nothing of an earlier packet. */
static void check_answer(const uint8_t *data, size_t size)
{
    uint8_t parameters[1 + MOST_DATA] = {0};
    uint8_t packet[DYNAMIXEL_LONGEST];
    memcpy(parameters + 1, data, size < MOST_DATA ? size : MOST_DATA);
    dynamixel_reset(&dynamixel);
    feetech_reset(&feetech);
    unsigned found = 0;
    size_t length = dynamixel_packet(SERVO, DYNAMIXEL_STATUS, parameters, sizeof parameters, packet);
    for (size_t i = 0; i < length; i++) {
        found += take_dynamixel(packet[i]);
    }
    require(found == 1);
    found = 0;
    length = feetech_packet(SERVO, parameters[0], parameters + 1, MOST_DATA, packet);
    for (size_t i = 0; i < length; i++) {
        found += take_feetech(packet[i]);
    }
    require(found == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const size_t between = size > 0 ? 1u + data[0] : 1u;
    dynamixel_reset(&dynamixel);
    feetech_reset(&feetech);
    for (size_t i = 1; i < size; i++) {
        (void)take_dynamixel(data[i]);
        (void)take_feetech(data[i]);
        if (i % between == 0) {
            dynamixel_reset(&dynamixel);
            feetech_reset(&feetech);
        }
    }
    check_answer(data, size);
    return 0;
}
