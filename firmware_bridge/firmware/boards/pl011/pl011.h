/* The PL011 of two boards with its FIFOs and a ring of bytes to send. The board's registers.h says where it is.
 *
 * Its interrupt has the highest priority. It comes while a FIFO still has room for many bytes (UART_IFLS_EARLY), so
 * that bytes are lost only if the processor disables interrupts for longer; lost bytes are counted. */
#ifndef PL011_H
#define PL011_H

#include <stdint.h>

void pl011_start(uint32_t clock_hz);

#endif
