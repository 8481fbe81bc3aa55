/* Luminary LM3S6965 evaluation board, real or in QEMU.
 *
 * The core runs at 25 MHz. SysTick is the free-running counter: of QEMU's timers of this chip it is the only one that
 * can be read. It has 24 bits and wraps after 0.67 s; every servo step reads it, and the watchdog resets the
 * board if no step comes for 0.5 s. Timer 0 is the alarm of the servo step; it counts down once. */
#include "board.h"

#include "cortex_m.h"
#include "host_line.h"
#include "registers.h"

enum {
    CORE_HZ = 25000000,
    COUNTER_MASK = 0xFFFFFF,
    ALARM_MARGIN = 25, /* counts after the step begins, so that rounding never makes the interrupt early */
    PRIORITY_WATCHDOG = 0x00,
    PRIORITY_UART = 0x20,
    PLL_LOCK_LOOPS = 100000, /* after these the board starts without the lock */
};

static const uint32_t WATCHDOG_MARK = 0x57444F47u;

/* Survives a reset. The reset cause register of the real chip shows a watchdog reset; that of QEMU does not. */
__attribute__((section(".noinit"))) static volatile uint32_t watchdog_mark;

static uint64_t counter_total;
static uint32_t counter_last;

static void start_clock(void)
{
    const uint32_t divider = SYSCTL_RCC_DIVIDE_BY_8 | SYSCTL_RCC_USE_DIVIDER | SYSCTL_RCC_CRYSTAL_8_MHZ;
    SYSCTL_RCC = divider | SYSCTL_RCC_BYPASS | SYSCTL_RCC_PLL_OFF;
    SYSCTL_RCC = divider | SYSCTL_RCC_BYPASS;
    for (uint32_t i = 0; i < PLL_LOCK_LOOPS && (SYSCTL_RIS & SYSCTL_RIS_PLL_LOCKED) == 0; i++) {
    }
    SYSCTL_RCC = divider;
    SYSCTL_RCGC0 = SYSCTL_RCGC0_WATCHDOG;
    SYSCTL_RCGC1 = SYSCTL_RCGC1_UART0 | SYSCTL_RCGC1_TIMER0;
    SYSCTL_RCGC2 = SYSCTL_RCGC2_GPIOA | SYSCTL_RCGC2_GPIOF;
    (void)SYSCTL_RCGC2; /* a peripheral answers three clocks after its gate opens */
    (void)SYSCTL_RCGC2;
}

static void start_counter(void)
{
    SYSTICK_LOAD = COUNTER_MASK;
    SYSTICK_VALUE = 0;
    SYSTICK_CTRL = SYSTICK_CTRL_RUN_ON_CORE_CLOCK;
    counter_last = SYSTICK_VALUE & COUNTER_MASK;
}

static void start_alarm(void)
{
    TIMER0_CFG = TIMER_CFG_32_BIT;
    TIMER0_TAMR = TIMER_TAMR_ONE_SHOT;
    TIMER0_IMR = TIMER_TIMEOUT;
}

static void start_pins(void)
{
    GPIOA_AFSEL = 3u;
    GPIOA_DEN = 3u;
    GPIOF_PUR = 2u;
    GPIOF_DEN = 2u;
}

void board_init(void)
{
    start_clock();
    start_counter();
    start_alarm();
    start_pins();
    set_interrupt_priority(IRQ_WATCHDOG, PRIORITY_WATCHDOG);
    set_interrupt_priority(IRQ_UART0, PRIORITY_UART);
    host_line_start(CORE_HZ);
    enable_interrupt(IRQ_UART0);
}

enum link_reset_cause board_reset_cause(void)
{
    const uint32_t cause = SYSCTL_RESC;
    const bool marked = watchdog_mark == WATCHDOG_MARK;
    SYSCTL_RESC = 0;
    watchdog_mark = 0;
    if (marked || (cause & SYSCTL_RESC_WATCHDOG) != 0) {
        return LINK_RESET_CAUSE_WATCHDOG;
    }
    if ((cause & SYSCTL_RESC_SOFTWARE) != 0) {
        return LINK_RESET_CAUSE_SOFTWARE;
    }
    return (cause & SYSCTL_RESC_POWER_ON) != 0 ? LINK_RESET_CAUSE_POWER_ON : LINK_RESET_CAUSE_UNKNOWN;
}

uint64_t board_counter(void)
{
    const uint32_t primask = disable_interrupts();
    const uint32_t value = SYSTICK_VALUE & COUNTER_MASK;
    counter_total += (counter_last - value) & COUNTER_MASK;
    counter_last = value;
    const uint64_t total = counter_total;
    restore_interrupts(primask);
    return total;
}

uint32_t board_counter_hz(void)
{
    return CORE_HZ;
}

void servo_alarm_set(uint64_t at)
{
    const uint64_t now = board_counter();
    TIMER0_CTL = 0;
    TIMER0_TAILR = (at > now ? (uint32_t)(at - now) : 0u) + ALARM_MARGIN;
    TIMER0_CTL = TIMER_ENABLE;
}

void servo_alarm_acknowledge(void)
{
    TIMER0_ICR = TIMER_TIMEOUT;
}

void board_watchdog_start(uint32_t limit_ms)
{
    WATCHDOG_LOAD = CORE_HZ / 1000u * limit_ms;
    WATCHDOG_CTL = WATCHDOG_CTL_INTERRUPT;
    WATCHDOG_CTL = WATCHDOG_CTL_INTERRUPT | WATCHDOG_CTL_RESET;
    enable_interrupt(IRQ_WATCHDOG);
}

void board_watchdog_kick(void)
{
    WATCHDOG_ICR = 1u;
}

/* The first timeout marks RAM for the next boot and resets. If the processor cannot run even this, the hardware resets
 * it at the second timeout, after the same time again. */
void watchdog_handler(void);
void watchdog_handler(void)
{
    watchdog_mark = WATCHDOG_MARK;
    SCB_AIRCR = SCB_AIRCR_RESET;
    for (;;) {
    }
}

/* The normally closed contact of the e-stop pulls F1 (on the board: beside the "select" button) to ground; pressed
 * or with a broken wire it reads high. */
bool board_estop_pressed(void)
{
    return GPIOF_PIN1 != 0;
}
