/* The frames that wait to be sent: replies first, then what was measured, of which only the newest waits, then telemetry,
 * of which the oldest is dropped when the line is full. So a host has the measurements of a tick when its telemetry comes.
 * On a line on which telemetry waits, it goes first, and measurements come less often.
 *
 * The servo interrupt adds telemetry; replies and sending belong to the main loop. A frame gets its sequence number
 * when it is made, so that dropped telemetry leaves no gap; the tick numbers show it. */
#ifndef OUTBOX_H
#define OUTBOX_H

#include "frame_encoder.h"

enum { OUTBOX_REPLIES = 16, OUTBOX_REPLY_PAYLOAD = 72, OUTBOX_TELEMETRY = 4 };

struct outbox_reply {
    uint8_t type;
    uint8_t size;
    uint8_t payload[OUTBOX_REPLY_PAYLOAD];
};

struct outbox {
    struct outbox_reply replies[OUTBOX_REPLIES];
    uint32_t replies_added;
    uint32_t replies_taken;
    struct link_telemetry telemetry[OUTBOX_TELEMETRY];
    uint32_t telemetry_added;
    uint32_t telemetry_taken;
    struct link_measured measured;
    bool measured_waits;
    uint16_t seq;
    uint8_t frame[FRAME_WIRE_SIZE]; /* the frame that is being sent */
    size_t frame_size;
    size_t frame_sent;
};

void outbox_init(struct outbox *outbox);

/* Queues a reply; if too many wait it is dropped, and the host repeats its request. */
void outbox_add_reply(struct outbox *outbox, uint8_t type, const uint8_t *payload, size_t size);

/* Adds telemetry; called by the servo interrupt. */
void outbox_add_telemetry(struct outbox *outbox, const struct link_telemetry *telemetry);

/* Sets what was measured, in place of what still waits; called by the servo interrupt. */
void outbox_set_measured(struct outbox *outbox, const struct link_measured *measured);

/* Writes as much to the UART as it accepts. */
void outbox_send(struct outbox *outbox);

#endif
