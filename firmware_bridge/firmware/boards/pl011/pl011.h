/* A PL011 with its FIFOs and a ring of bytes to send.
 *
 * Its interrupt comes while a FIFO still has room for some bytes (`fifo_levels`, the register UARTIFLS), so that
 * bytes are lost only if the processor disables it for longer; lost bytes are reported. A handler acknowledges,
 * takes every byte, and continues sending. */
#ifndef PL011_H
#define PL011_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PL011_RING_SIZE = 512 };

struct pl011 {
    uintptr_t at; /* address of its first register */
    uint8_t ring[PL011_RING_SIZE]; /* the writer fills it, the interrupt sends */
    volatile uint32_t ring_written;
    volatile uint32_t ring_sent;
};

void pl011_start(struct pl011 *uart, uintptr_t at, uint32_t fifo_levels, uint32_t clock_hz, uint32_t baud);

/* Accepts bytes to send; returns how many. To be called in one context, less urgent than the interrupt. */
size_t pl011_write(struct pl011 *uart, const uint8_t *data, size_t size);

/* Whether a byte is still on its way. */
bool pl011_is_sending(const struct pl011 *uart);

/* For the handler. */
enum pl011_taken {
    PL011_NOTHING,
    PL011_BYTE,
    PL011_DAMAGED, /* a byte without its stop bit, or a break; `*byte` is not set */
};
void pl011_acknowledge(const struct pl011 *uart);
enum pl011_taken pl011_take(const struct pl011 *uart, uint8_t *byte, bool *lost);
void pl011_continue_sending(struct pl011 *uart);

#endif
