/* The servo buses, each on a PL011 of its own, with board_bus_write and board_bus_read.
 *
 * A bus receives as the line to the host does, by the interrupt of the FIFO, and not by DMA: a byte takes few of the
 * processor's cycles, emulators show it, and no transfer ever ends and must be started anew. The interrupt is less
 * urgent than that of the host's line and more than the servo step; with half of the FIFO full it may come late by
 * the time of as many bytes again. */
#ifndef BUS_LINE_H
#define BUS_LINE_H

#include <stdint.h>

/* Starts the UART of a bus, below BUS_LINES (registers.h). The board has set up its pins and enables the interrupt. */
void bus_line_start(uint8_t bus, uintptr_t uart_at, uint32_t clock_hz, uint32_t baud);

/* For the handler of a bus. */
void bus_line_interrupt(uint8_t bus);

/* The handlers of the UARTs, for the vector table. */
void uart1_handler(void);
void uart2_handler(void);

#endif
