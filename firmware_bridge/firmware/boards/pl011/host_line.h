/* UART 0, the line to the host, with board_uart_write. Its interrupt has the highest priority of those that receive. */
#ifndef HOST_LINE_H
#define HOST_LINE_H

#include <stdint.h>

void host_line_start(uint32_t clock_hz);

/* The handler of IRQ_UART0, for the vector table. */
void uart0_handler(void);

#endif
