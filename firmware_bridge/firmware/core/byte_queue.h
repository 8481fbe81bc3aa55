/* Bytes from one interrupt to the main loop. One writer and one reader need no lock: each moves only its own end. */
#ifndef BYTE_QUEUE_H
#define BYTE_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#define BYTE_QUEUE_SIZE 4096u /* a power of two; 44 ms of a full line at 921600 baud */

/* Of these bytes, fragments may fill so many; the rest is for pings and commands, which have no flow control. */
#define BYTE_QUEUE_WINDOW (BYTE_QUEUE_SIZE - 512u)

struct byte_queue {
    uint8_t data[BYTE_QUEUE_SIZE];
    volatile uint32_t written;
    volatile uint32_t read;
};

static inline bool byte_queue_is_empty(const struct byte_queue *queue)
{
    return queue->written == queue->read;
}

/* Returns false where the queue is full and the byte was lost. */
static inline bool byte_queue_push(struct byte_queue *queue, uint8_t byte)
{
    const uint32_t written = queue->written;
    if (written - queue->read == BYTE_QUEUE_SIZE) {
        return false;
    }
    queue->data[written % BYTE_QUEUE_SIZE] = byte;
    queue->written = written + 1u;
    return true;
}

static inline bool byte_queue_pop(struct byte_queue *queue, uint8_t *byte)
{
    const uint32_t read = queue->read;
    if (queue->written == read) {
        return false;
    }
    *byte = queue->data[read % BYTE_QUEUE_SIZE];
    queue->read = read + 1u;
    return true;
}

#endif
