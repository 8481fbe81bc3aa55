#include "pl011.h"

#include "board.h"
#include "registers.h"

enum { BAUD = 921600, RING_SIZE = 512 };

/* The main loop writes, the interrupt sends. */
static uint8_t ring[RING_SIZE];
static volatile uint32_t ring_written;
static volatile uint32_t ring_sent;

void pl011_start(uint32_t clock_hz)
{
    const uint32_t divisor = (clock_hz * 4u + BAUD / 2u) / BAUD; /* in 64ths of a 16-fold baud period */
    UART0_IBRD = divisor / 64u;
    UART0_FBRD = divisor % 64u;
    UART0_LCRH = UART_LCRH_8_BITS_FIFO;
    UART0_IFLS = UART_IFLS_EARLY;
    UART0_CTL = UART_CTL_ENABLE;
    UART0_IM = UART_IM_RECEIVE;
}

static void receive(void)
{
    while ((UART0_FR & UART_FR_RECEIVE_EMPTY) == 0) {
        const uint32_t data = UART0_DR;
        if ((data & UART_DR_OVERRUN) != 0) {
            application_receive_lost();
        }
        if ((data & UART_DR_DAMAGED) == 0) {
            application_receive((uint8_t)data);
        }
    }
}

static void transmit(void)
{
    while (ring_sent != ring_written && (UART0_FR & UART_FR_TRANSMIT_FULL) == 0) {
        UART0_DR = ring[ring_sent % RING_SIZE];
        ring_sent++;
    }
}

void uart0_handler(void);
void uart0_handler(void)
{
    UART0_ICR = UART_IM_RECEIVE | UART_IM_TRANSMIT;
    receive();
    if ((UART0_IM & UART_IM_TRANSMIT) != 0) { /* otherwise the main loop may be sending just now */
        transmit();
    }
    if (ring_sent == ring_written) {
        UART0_IM = UART_IM_RECEIVE;
    }
}

size_t board_uart_write(const uint8_t *data, size_t size)
{
    size_t taken = 0;
    UART0_IM = UART_IM_RECEIVE; /* the interrupt must not send while this does */
    while (taken < size && ring_written - ring_sent < RING_SIZE) {
        ring[ring_written % RING_SIZE] = data[taken++];
        ring_written++;
    }
    transmit(); /* fills the FIFO: the interrupt comes only when the FIFO empties */
    if (ring_sent != ring_written) {
        UART0_IM = UART_IM_RECEIVE | UART_IM_TRANSMIT;
    }
    return taken;
}
