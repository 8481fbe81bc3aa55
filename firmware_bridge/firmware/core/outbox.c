#include "outbox.h"

#include <string.h>

#include "board.h"

void outbox_init(struct outbox *outbox)
{
    memset(outbox, 0, sizeof *outbox);
}

void outbox_add_reply(struct outbox *outbox, uint8_t type, const uint8_t *payload, size_t size)
{
    if (outbox->replies_added - outbox->replies_taken == OUTBOX_REPLIES || size > OUTBOX_REPLY_PAYLOAD) {
        return;
    }
    struct outbox_reply *reply = &outbox->replies[outbox->replies_added % OUTBOX_REPLIES];
    reply->type = type;
    reply->size = (uint8_t)size;
    memcpy(reply->payload, payload, size);
    outbox->replies_added++;
}

void outbox_add_telemetry(struct outbox *outbox, const struct link_telemetry *telemetry)
{
    if (outbox->telemetry_added - outbox->telemetry_taken == OUTBOX_TELEMETRY) {
        outbox->telemetry_taken++;
    }
    outbox->telemetry[outbox->telemetry_added % OUTBOX_TELEMETRY] = *telemetry;
    outbox->telemetry_added++;
}

void outbox_set_measured(struct outbox *outbox, const struct link_measured *measured)
{
    outbox->measured = *measured;
    outbox->measured_waits = true;
}

static void begin_frame(struct outbox *outbox, uint8_t type, const uint8_t *payload, size_t size)
{
    outbox->frame_size = frame_encode(type, outbox->seq, payload, size, outbox->frame);
    outbox->frame_sent = 0;
    outbox->seq++;
}

static bool take_reply(struct outbox *outbox)
{
    if (outbox->replies_added == outbox->replies_taken) {
        return false;
    }
    const struct outbox_reply *reply = &outbox->replies[outbox->replies_taken % OUTBOX_REPLIES];
    begin_frame(outbox, reply->type, reply->payload, reply->size);
    outbox->replies_taken++;
    return true;
}

static bool take_telemetry(struct outbox *outbox)
{
    uint8_t payload[LINK_MAX_PAYLOAD];
    size_t size = 0;
    const uint32_t masked = board_mask_servo();
    const bool waiting = outbox->telemetry_added != outbox->telemetry_taken;
    if (waiting) {
        size = link_pack_telemetry(&outbox->telemetry[outbox->telemetry_taken % OUTBOX_TELEMETRY], payload);
        outbox->telemetry_taken++;
    }
    board_unmask_servo(masked);
    if (waiting) {
        begin_frame(outbox, LINK_TELEMETRY_ID, payload, size);
    }
    return waiting;
}

static bool take_measured(struct outbox *outbox)
{
    uint8_t payload[LINK_MAX_PAYLOAD];
    size_t size = 0;
    const uint32_t masked = board_mask_servo();
    const bool waits = outbox->measured_waits && outbox->telemetry_added - outbox->telemetry_taken <= 1u;
    if (waits) {
        size = link_pack_measured(&outbox->measured, payload);
        outbox->measured_waits = false;
    }
    board_unmask_servo(masked);
    if (waits) {
        begin_frame(outbox, LINK_MEASURED_ID, payload, size);
    }
    return waits;
}

void outbox_send(struct outbox *outbox)
{
    while (outbox->frame_sent < outbox->frame_size || take_reply(outbox) || take_measured(outbox) ||
           take_telemetry(outbox)) {
        const size_t left = outbox->frame_size - outbox->frame_sent;
        const size_t written = board_uart_write(outbox->frame + outbox->frame_sent, left);
        outbox->frame_sent += written;
        if (written < left) {
            return;
        }
    }
}
