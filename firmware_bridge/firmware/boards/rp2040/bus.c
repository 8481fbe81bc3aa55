/* The servo bus of the Pico: UART 1, which sends on pin 8 and receives on pin 9, behind a driver that switches its
 * direction itself. */
#include "board.h"
#include "bus_line.h"
#include "cortex_m.h"
#include "registers.h"

enum { CORE_HZ = 125000000, PIN_BUS_SEND = 8, PIN_BUS_RECEIVE = 9 };

#ifdef BOARD_BUSES
_Static_assert(BOARD_BUSES == BUS_LINES, "the Makefile says how many buses there are");
#endif

void uart1_handler(void)
{
    bus_line_interrupt(0);
}

void board_bus_start(uint8_t bus, uint32_t baud)
{
    CLEAR(RESETS_RESET) = RESET_UART1;
    while ((RESETS_DONE & RESET_UART1) == 0) {
    }
    GPIO_CTRL(PIN_BUS_SEND) = GPIO_FUNCTION_UART;
    GPIO_CTRL(PIN_BUS_RECEIVE) = GPIO_FUNCTION_UART;
    PAD(PIN_BUS_RECEIVE) = PAD_INPUT_PULLED_UP;
    set_interrupt_priority(IRQ_UART1, PRIORITY_BUS);
    bus_line_start(bus, UART1_AT, CORE_HZ, baud);
    enable_interrupt(IRQ_UART1);
}
