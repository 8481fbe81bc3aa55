/* The servo buses of this board: UART 1 (D2 receives, D3 sends) and UART 2 (G0 receives, G1 sends), each behind a
 * driver that switches its direction itself. */
#include "board.h"
#include "bus_line.h"
#include "cortex_m.h"
#include "registers.h"

enum { CORE_HZ = 25000000 };

#ifdef BOARD_BUSES
_Static_assert(BOARD_BUSES == BUS_LINES, "the Makefile says how many buses there are");
#endif

void uart1_handler(void)
{
    bus_line_interrupt(0);
}

void uart2_handler(void)
{
    bus_line_interrupt(1);
}

static void start_first(void)
{
    SYSCTL_RCGC1 |= SYSCTL_RCGC1_UART1;
    SYSCTL_RCGC2 |= SYSCTL_RCGC2_GPIOD;
    (void)SYSCTL_RCGC2; /* a peripheral answers three clocks after its gate opens */
    (void)SYSCTL_RCGC2;
    GPIOD_AFSEL = 0xCu;
    GPIOD_DEN = 0xCu;
}

static void start_second(void)
{
    SYSCTL_RCGC1 |= SYSCTL_RCGC1_UART2;
    SYSCTL_RCGC2 |= SYSCTL_RCGC2_GPIOG;
    (void)SYSCTL_RCGC2;
    (void)SYSCTL_RCGC2;
    GPIOG_AFSEL = 3u;
    GPIOG_DEN = 3u;
}

void board_bus_start(uint8_t bus, uint32_t baud)
{
    const uint32_t irq = bus == 0 ? IRQ_UART1 : IRQ_UART2;
    if (bus == 0) {
        start_first();
    } else {
        start_second();
    }
    set_interrupt_priority(irq, PRIORITY_BUS);
    bus_line_start(bus, bus == 0 ? UART1_AT : UART2_AT, CORE_HZ, baud);
    enable_interrupt(irq);
}
