#include "pl011.h"

/* Registers, by their distance from the first. */
enum { DR = 0x00, FR = 0x18, IBRD = 0x24, FBRD = 0x28, LCRH = 0x2C, CTL = 0x30, IFLS = 0x34, IM = 0x38, ICR = 0x44 };

static const uint32_t DR_DAMAGED = 7u << 8; /* framing, parity, break */
static const uint32_t DR_OVERRUN = 1u << 11;
static const uint32_t FR_BUSY = 1u << 3;
static const uint32_t FR_RECEIVE_EMPTY = 1u << 4;
static const uint32_t FR_TRANSMIT_FULL = 1u << 5;
static const uint32_t LCRH_8_BITS_FIFO = (3u << 5) | (1u << 4);
static const uint32_t CTL_ENABLE = (1u << 0) | (1u << 8) | (1u << 9);
static const uint32_t IM_RECEIVE = (1u << 4) | (1u << 6); /* level and timeout */
static const uint32_t IM_TRANSMIT = 1u << 5;

static volatile uint32_t *reg(const struct pl011 *uart, uint32_t distance)
{
    return (volatile uint32_t *)(uart->at + distance);
}

void pl011_start(struct pl011 *uart, uintptr_t at, uint32_t fifo_levels, uint32_t clock_hz, uint32_t baud)
{
    uart->at = at;
    const uint32_t divisor = (clock_hz * 4u + baud / 2u) / baud; /* in 64ths of a 16-fold baud period */
    *reg(uart, IBRD) = divisor / 64u;
    *reg(uart, FBRD) = divisor % 64u;
    *reg(uart, LCRH) = LCRH_8_BITS_FIFO;
    *reg(uart, IFLS) = fifo_levels;
    *reg(uart, CTL) = CTL_ENABLE;
    *reg(uart, IM) = IM_RECEIVE;
}

void pl011_acknowledge(const struct pl011 *uart)
{
    *reg(uart, ICR) = IM_RECEIVE | IM_TRANSMIT;
}

enum pl011_taken pl011_take(const struct pl011 *uart, uint8_t *byte, bool *lost)
{
    if ((*reg(uart, FR) & FR_RECEIVE_EMPTY) != 0) {
        return PL011_NOTHING;
    }
    const uint32_t data = *reg(uart, DR);
    *lost = (data & DR_OVERRUN) != 0;
    if ((data & DR_DAMAGED) != 0) {
        return PL011_DAMAGED;
    }
    *byte = (uint8_t)data;
    return PL011_BYTE;
}

static void transmit(struct pl011 *uart)
{
    while (uart->ring_sent != uart->ring_written && (*reg(uart, FR) & FR_TRANSMIT_FULL) == 0) {
        *reg(uart, DR) = uart->ring[uart->ring_sent % PL011_RING_SIZE];
        uart->ring_sent++;
    }
}

void pl011_continue_sending(struct pl011 *uart)
{
    if ((*reg(uart, IM) & IM_TRANSMIT) != 0) { /* otherwise pl011_write may be sending just now */
        transmit(uart);
    }
    if (uart->ring_sent == uart->ring_written) {
        *reg(uart, IM) = IM_RECEIVE;
    }
}

size_t pl011_write(struct pl011 *uart, const uint8_t *data, size_t size)
{
    size_t taken = 0;
    *reg(uart, IM) = IM_RECEIVE; /* the interrupt must not send while this does */
    while (taken < size && uart->ring_written - uart->ring_sent < PL011_RING_SIZE) {
        uart->ring[uart->ring_written % PL011_RING_SIZE] = data[taken++];
        uart->ring_written++;
    }
    transmit(uart); /* fills the FIFO: the interrupt comes only when the FIFO empties */
    if (uart->ring_sent != uart->ring_written) {
        *reg(uart, IM) = IM_RECEIVE | IM_TRANSMIT;
    }
    return taken;
}

bool pl011_is_sending(const struct pl011 *uart)
{
    return uart->ring_sent != uart->ring_written || (*reg(uart, FR) & FR_BUSY) != 0;
}
