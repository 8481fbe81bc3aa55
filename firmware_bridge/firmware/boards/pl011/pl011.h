/* The PL011 of two boards with its FIFOs and a ring of bytes to send. The board's registers.h says where it is.
 *
 * Its interrupt is the most urgent one. It comes while a FIFO still has room for many bytes (UART_IFLS_EARLY), so that
 * only a processor that keeps interrupts off for longer loses any; what is lost is counted. */
#ifndef PL011_H
#define PL011_H

#include <stdint.h>

void pl011_start(uint32_t clock_hz);

#endif
