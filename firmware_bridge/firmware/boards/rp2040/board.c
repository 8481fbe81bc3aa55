/* Raspberry Pi Pico (RP2040).
 *
 * The core runs at 125 MHz from the crystal. The timer counts microseconds in 64 bits; its alarm 0 is the alarm of the
 * servo step. */
#include "board.h"

#include "cortex_m.h"
#include "host_line.h"
#include "registers.h"

enum {
    CORE_HZ = 125000000,
    CRYSTAL_MHZ = 12,
    COUNTER_HZ = 1000000,
    ALARM_MARGIN = 1, /* counts after the step begins, so that rounding never makes the interrupt early */
    CRYSTAL_STARTUP = 47, /* in 256 cycles of the crystal: 1 ms */
    PIN_UART_SEND = 0,
    PIN_UART_RECEIVE = 1,
    PIN_ESTOP = 15,
};

static void start_crystal(void)
{
    XOSC_STARTUP = CRYSTAL_STARTUP;
    XOSC_CTRL = XOSC_CTRL_ENABLE_1_15_MHZ;
    while ((XOSC_STATUS & XOSC_STATUS_STABLE) == 0) {
    }
    CLK_REF_CTRL = CLK_REF_XOSC;
    while ((CLK_REF_SELECTED & (1u << CLK_REF_XOSC)) == 0) {
    }
}

static void release(uint32_t blocks)
{
    CLEAR(RESETS_RESET) = blocks;
    while ((RESETS_DONE & blocks) != blocks) {
    }
}

/* 12 MHz * 125 / 6 / 2 = 125 MHz. After a reset by the watchdog the core may still run from the PLL. */
static void start_core_clock(void)
{
    CLK_SYS_CTRL = CLK_SYS_REF;
    while ((CLK_SYS_SELECTED & 1u) == 0) {
    }
    SET(RESETS_RESET) = RESET_PLL_SYS;
    release(RESET_PLL_SYS);
    PLL_CS = 1; /* crystal undivided */
    PLL_FBDIV = 125;
    CLEAR(PLL_PWR) = PLL_PWR_MAIN_AND_VCO;
    while ((PLL_CS & PLL_CS_LOCKED) == 0) {
    }
    PLL_PRIM = PLL_PRIM_6_2;
    CLEAR(PLL_PWR) = PLL_PWR_POST_DIVIDERS;
    CLK_SYS_CTRL = CLK_SYS_AUX_PLL;
    while ((CLK_SYS_SELECTED & (1u << CLK_SYS_AUX_PLL)) == 0) {
    }
    CLK_PERI_CTRL = CLK_PERI_ENABLE;
}

static void start_pins(void)
{
    GPIO_CTRL(PIN_UART_SEND) = GPIO_FUNCTION_UART;
    GPIO_CTRL(PIN_UART_RECEIVE) = GPIO_FUNCTION_UART;
    PAD(PIN_UART_RECEIVE) = PAD_INPUT_PULLED_UP;
    PAD(PIN_ESTOP) = PAD_INPUT_PULLED_UP;
    GPIO_CTRL(PIN_ESTOP) = GPIO_FUNCTION_SIO;
}

void board_init(void)
{
    start_crystal();
    start_core_clock();
    WATCHDOG_TICK = WATCHDOG_TICK_ENABLE | CRYSTAL_MHZ;
    release(RESET_IO_BANK0 | RESET_PADS_BANK0 | RESET_TIMER | RESET_UART0);
    TIMER_INTE = TIMER_ALARM0_BIT;
    start_pins();
    host_line_start(CORE_HZ);
    enable_interrupt(IRQ_UART0);
}

enum link_reset_cause board_reset_cause(void)
{
    const uint32_t reason = WATCHDOG_REASON;
    if ((reason & WATCHDOG_REASON_TIMER) != 0) {
        return LINK_RESET_CAUSE_WATCHDOG;
    }
    if ((reason & WATCHDOG_REASON_FORCED) != 0) {
        return LINK_RESET_CAUSE_SOFTWARE;
    }
    return (CHIP_RESET & CHIP_RESET_HAD_POR) != 0 ? LINK_RESET_CAUSE_POWER_ON : LINK_RESET_CAUSE_UNKNOWN;
}

uint64_t board_counter(void)
{
    uint32_t high = TIMER_RAW_HIGH;
    for (;;) {
        const uint32_t low = TIMER_RAW_LOW;
        const uint32_t again = TIMER_RAW_HIGH;
        if (again == high) {
            return ((uint64_t)high << 32) | low;
        }
        high = again;
    }
}

uint32_t board_counter_hz(void)
{
    return COUNTER_HZ;
}

void servo_alarm_set(uint64_t at)
{
    TIMER_ALARM0 = (uint32_t)at + ALARM_MARGIN;
}

void servo_alarm_acknowledge(void)
{
    TIMER_INTR = TIMER_ALARM0_BIT;
}

/* The watchdog counts down twice per microsecond (erratum RP2040-E1). */
static uint32_t watchdog_load;

void board_watchdog_start(uint32_t limit_ms)
{
    watchdog_load = limit_ms * 2000u;
    PSM_WDSEL = PSM_ALL_BUT_OSCILLATORS;
    WATCHDOG_LOAD = watchdog_load;
    WATCHDOG_CTRL = WATCHDOG_CTRL_ENABLE;
}

void board_watchdog_kick(void)
{
    WATCHDOG_LOAD = watchdog_load;
}

/* The normally closed contact of the e-stop pulls pin 15 to ground; pressed or with a broken wire it reads high. */
bool board_estop_pressed(void)
{
    return (SIO_GPIO_IN & (1u << PIN_ESTOP)) != 0;
}
