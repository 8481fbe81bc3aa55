/* The PL011 of the board with its FIFOs and a ring of bytes to send. */
#ifndef UART_H
#define UART_H

#include <stdint.h>

void uart_start(uint32_t core_hz);

#endif
