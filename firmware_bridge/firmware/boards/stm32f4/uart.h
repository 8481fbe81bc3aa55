/* USART 2: received by DMA into a ring, sent from another one by interrupt. */
#ifndef UART_H
#define UART_H

#include <stdint.h>

void uart_start(uint32_t clock_hz);

#endif
