#include "bus_line.h"

#include "board.h"
#include "pl011.h"
#include "registers.h"

enum { RECEIVED_SIZE = 512 };

static struct pl011 uarts[BUS_LINES];

/* What each bus received: the interrupt writes, the servo step reads. What nobody reads in time is lost. */
static struct received {
    uint8_t bytes[RECEIVED_SIZE];
    volatile uint32_t written;
    volatile uint32_t read;
} received[BUS_LINES];

void bus_line_start(uint8_t bus, uintptr_t uart_at, uint32_t clock_hz, uint32_t baud)
{
    pl011_start(&uarts[bus], uart_at, UART_IFLS_HALF, clock_hz, baud);
}

void bus_line_interrupt(uint8_t bus)
{
    struct received *ring = &received[bus];
    struct pl011 *uart = &uarts[bus];
    uint8_t byte;
    bool lost; /* the packet that lacks a byte will be damaged */
    enum pl011_taken taken;
    pl011_acknowledge(uart);
    while ((taken = pl011_take(uart, &byte, &lost)) != PL011_NOTHING) {
        if (taken == PL011_BYTE && ring->written - ring->read < RECEIVED_SIZE) {
            ring->bytes[ring->written % RECEIVED_SIZE] = byte;
            ring->written++;
        }
    }
    pl011_continue_sending(uart);
}

bool board_bus_write(uint8_t bus, const uint8_t *data, size_t size)
{
    if (bus >= BUS_LINES || size > PL011_RING_SIZE || pl011_is_sending(&uarts[bus])) {
        return false;
    }
    return pl011_write(&uarts[bus], data, size) == size;
}

size_t board_bus_read(uint8_t bus, uint8_t *data, size_t size)
{
    if (bus >= BUS_LINES) {
        return 0;
    }
    struct received *ring = &received[bus];
    size_t taken = 0;
    while (taken < size && ring->read != ring->written) {
        data[taken++] = ring->bytes[ring->read % RECEIVED_SIZE];
        ring->read++;
    }
    return taken;
}
