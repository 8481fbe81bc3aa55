/* Luminary LM3S6965 evaluation board, real or in QEMU.
 *
 * The core runs at 25 MHz. SysTick is the free-running counter: of QEMU's timers of this chip it is the only one that
 * can be read. It has 24 bits and wraps after 0.67 s; every servo step reads it, and the watchdog ends a silence of 0.5 s.
 * Timer 0 is an alarm, set anew for each step from the counter, so that the two never drift apart. */
#include "board.h"

#include "cortex_m.h"
#include "pl011.h"
#include "registers.h"

enum {
    CORE_HZ = 25000000,
    COUNTER_MASK = 0xFFFFFF,
    ALARM_MARGIN = 25, /* counts after the step begins, so that rounding never makes the interrupt early */
    PRIORITY_WATCHDOG = 0x00,
    PRIORITY_UART = 0x20,
    PRIORITY_SERVO = 0x60, /* lower in urgency than the UART */
    PLL_PATIENCE = 100000,
};

static const uint32_t WATCHDOG_MARK = 0x57444F47u;

/* Survives a reset. The reset cause register of the real chip tells a watchdog reset; QEMU's does not. */
__attribute__((section(".noinit"))) static volatile uint32_t watchdog_mark;

static uint64_t counter_total;
static uint32_t counter_last;
static uint64_t servo_epoch;
static uint32_t servo_period;

static void start_clock(void)
{
    const uint32_t divider = SYSCTL_RCC_DIVIDE_BY_8 | SYSCTL_RCC_USE_DIVIDER | SYSCTL_RCC_CRYSTAL_8_MHZ;
    SYSCTL_RCC = divider | SYSCTL_RCC_BYPASS | SYSCTL_RCC_PLL_OFF;
    SYSCTL_RCC = divider | SYSCTL_RCC_BYPASS;
    for (uint32_t i = 0; i < PLL_PATIENCE && (SYSCTL_RIS & SYSCTL_RIS_PLL_LOCKED) == 0; i++) {
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
    start_pins();
    NVIC_PRIORITY(IRQ_WATCHDOG) = PRIORITY_WATCHDOG;
    NVIC_PRIORITY(IRQ_UART0) = PRIORITY_UART;
    NVIC_PRIORITY(IRQ_TIMER0A) = PRIORITY_SERVO;
    pl011_start(CORE_HZ);
    NVIC_ENABLE = (1u << IRQ_UART0) | (1u << IRQ_TIMER0A);
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

static void set_alarm(void)
{
    const uint64_t now = board_counter();
    const uint64_t next = servo_epoch + ((now - servo_epoch) / servo_period + 1u) * servo_period;
    TIMER0_TAILR = (uint32_t)(next - now) + ALARM_MARGIN;
    TIMER0_CTL = TIMER_ENABLE;
}

void board_servo_start(uint64_t epoch, uint32_t period)
{
    servo_epoch = epoch;
    servo_period = period;
    TIMER0_CFG = TIMER_CFG_32_BIT;
    TIMER0_TAMR = TIMER_TAMR_ONE_SHOT;
    TIMER0_IMR = TIMER_TIMEOUT;
    set_alarm();
}

void timer0a_handler(void);
void timer0a_handler(void)
{
    TIMER0_ICR = TIMER_TIMEOUT;
    application_servo();
    set_alarm();
}

uint32_t board_mask_servo(void)
{
    uint32_t masked;
    __asm volatile("mrs %0, basepri\n\tmsr basepri, %1" : "=&r"(masked) : "r"(PRIORITY_SERVO) : "memory");
    return masked;
}

void board_unmask_servo(uint32_t masked)
{
    __asm volatile("msr basepri, %0" ::"r"(masked) : "memory");
}

void board_watchdog_start(uint32_t limit_ms)
{
    WATCHDOG_LOAD = CORE_HZ / 1000u * limit_ms;
    WATCHDOG_CTL = WATCHDOG_CTL_INTERRUPT;
    WATCHDOG_CTL = WATCHDOG_CTL_INTERRUPT | WATCHDOG_CTL_RESET;
    NVIC_ENABLE = 1u << IRQ_WATCHDOG;
}

void board_watchdog_kick(void)
{
    WATCHDOG_ICR = 1u;
}

/* The first timeout leaves word for the next boot and resets. Where not even this can run, the hardware resets with
 * the second one, after as long again. */
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
