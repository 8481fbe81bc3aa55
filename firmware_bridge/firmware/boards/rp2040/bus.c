/* The servo bus of the Pico: UART 1 on pin 8, behind a driver that switches its direction itself; sent by DMA. */
#include <string.h>

#include "board.h"
#include "registers.h"

enum { CORE_HZ = 125000000, PIN_BUS_SEND = 8, LONGEST = 256 };

static uint8_t sending[LONGEST];

void board_bus_start(uint32_t baud)
{
    const uint32_t blocks = RESET_DMA | RESET_UART1;
    const uint32_t divisor = (CORE_HZ * 4u + baud / 2u) / baud; /* in 64ths of a 16-fold baud period */
    CLEAR(RESETS_RESET) = blocks;
    while ((RESETS_DONE & blocks) != blocks) {
    }
    UART1_IBRD = divisor / 64u;
    UART1_FBRD = divisor % 64u;
    UART1_LCRH = UART_LCRH_8_BITS_FIFO;
    UART1_CTL = UART_CTL_ENABLE;
    UART1_DMACR = UART_DMACR_SEND;
    GPIO_CTRL(PIN_BUS_SEND) = GPIO_FUNCTION_UART;
    DMA0_WRITE_ADDRESS = UART1_DR_ADDRESS;
}

bool board_bus_write(const uint8_t *data, size_t size)
{
    if (size > LONGEST || (DMA0_CONTROL & DMA_CONTROL_BUSY) != 0) {
        return false;
    }
    memcpy(sending, data, size);
    DMA0_READ_ADDRESS = (uint32_t)(uintptr_t)sending;
    DMA0_COUNT = size;
    DMA0_CONTROL = DMA_CONTROL_BYTES_TO_UART1;
    return true;
}
