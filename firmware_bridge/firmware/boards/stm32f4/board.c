/* Nucleo-F446RE (STM32F446).
 *
 * The core runs at 144 MHz from the 8 MHz that the board's ST-LINK provides, which gives the UART 36 MHz: of the clocks
 * near the maximum the one that comes closest to 921600 baud (39 periods, 0.16 % fast). Timer 5 counts microseconds
 * in 32 bits; its compare register 1 is the alarm of the servo step. */
#include "board.h"

#include "cortex_m.h"
#include "registers.h"
#include "uart.h"

enum {
    APB1_HZ = 36000000,
    APB1_TIMER_MHZ = 72, /* timers run at twice the divided bus clock */
    COUNTER_HZ = 1000000,
    PRIORITY_UART = 0x20,
    PIN_UART_SEND = 2,
    PIN_UART_RECEIVE = 3,
    PIN_ESTOP = 10,
};

static uint64_t counter_total;
static uint32_t counter_last;

static void start_clock(void)
{
    RCC_CR |= RCC_CR_HSE_BYPASS;
    RCC_CR |= RCC_CR_HSE_ON;
    while ((RCC_CR & RCC_CR_HSE_READY) == 0) {
    }
    FLASH_ACR = FLASH_ACR_4_WAITS_CACHED;
    RCC_PLLCFGR = RCC_PLL_M(4u) | RCC_PLL_N(144u) | RCC_PLL_P_2 | RCC_PLL_Q_6 | RCC_PLL_FROM_HSE;
    RCC_CR |= RCC_CR_PLL_ON;
    while ((RCC_CR & RCC_CR_PLL_READY) == 0) {
    }
    RCC_CFGR = RCC_CFGR_APB1_BY_4 | RCC_CFGR_APB2_BY_2 | RCC_CFGR_SYSCLK_PLL;
    while ((RCC_CFGR & RCC_CFGR_RUNS_ON_PLL) == 0) {
    }
    RCC_AHB1ENR |= RCC_AHB1ENR_GPIOA | RCC_AHB1ENR_DMA1;
    RCC_APB1ENR |= RCC_APB1ENR_TIM5 | RCC_APB1ENR_USART2;
    (void)RCC_APB1ENR; /* a peripheral answers two clocks after its gate opens */
}

static void start_counter(void)
{
    TIM5_PSC = APB1_TIMER_MHZ - 1u;
    TIM5_ARR = UINT32_MAX;
    TIM5_EGR = TIM_UPDATE; /* takes over the prescaler */
    TIM5_SR = 0;
    TIM5_DIER = TIM_COMPARE_1;
    TIM5_CR1 = TIM_ENABLE;
}

static void start_pins(void)
{
    GPIOA_AFRL |= (GPIO_USART2 << (4 * PIN_UART_SEND)) | (GPIO_USART2 << (4 * PIN_UART_RECEIVE));
    GPIOA_MODER |= (GPIO_MODE_ALTERNATE << (2 * PIN_UART_SEND)) | (GPIO_MODE_ALTERNATE << (2 * PIN_UART_RECEIVE));
    GPIOA_PUPDR |= (GPIO_PULLED_UP << (2 * PIN_UART_RECEIVE)) | (GPIO_PULLED_UP << (2 * PIN_ESTOP));
}

void board_init(void)
{
    SCB_CPACR |= SCB_CPACR_FPU;
    __asm volatile("dsb\n\tisb" ::: "memory");
    start_clock();
    start_counter();
    start_pins();
    set_interrupt_priority(IRQ_DMA1_STREAM5, PRIORITY_UART);
    set_interrupt_priority(IRQ_USART2, PRIORITY_UART);
    uart_start(APB1_HZ);
    enable_interrupt(IRQ_DMA1_STREAM5);
    enable_interrupt(IRQ_USART2);
}

enum link_reset_cause board_reset_cause(void)
{
    const uint32_t cause = RCC_CSR;
    RCC_CSR = RCC_CSR_FORGET;
    if ((cause & RCC_CSR_WATCHDOG) != 0) {
        return LINK_RESET_CAUSE_WATCHDOG;
    }
    if ((cause & RCC_CSR_SOFTWARE) != 0) {
        return LINK_RESET_CAUSE_SOFTWARE;
    }
    return (cause & RCC_CSR_POWER_ON) != 0 ? LINK_RESET_CAUSE_POWER_ON : LINK_RESET_CAUSE_UNKNOWN;
}

/* The 32 bits wrap after 71 minutes; every servo step reads them. */
uint64_t board_counter(void)
{
    const uint32_t primask = disable_interrupts();
    const uint32_t value = TIM5_CNT;
    counter_total += value - counter_last;
    counter_last = value;
    const uint64_t total = counter_total;
    restore_interrupts(primask);
    return total;
}

uint32_t board_counter_hz(void)
{
    return COUNTER_HZ;
}

/* The lowest 32 bits of board_counter are those of the timer. */
void servo_alarm_set(uint64_t at)
{
    TIM5_CCR1 = (uint32_t)at;
}

void servo_alarm_acknowledge(void)
{
    TIM5_SR = 0;
}

/* The oscillator of the watchdog may run at 17 to 47 kHz: it resets after 0.7 to 1.9 times the limit. */
void board_watchdog_start(uint32_t limit_ms)
{
    IWDG_KR = IWDG_START;
    IWDG_KR = IWDG_UNLOCK;
    IWDG_PR = IWDG_BY_32;
    IWDG_RLR = limit_ms;
    IWDG_KR = IWDG_KICK;
}

void board_watchdog_kick(void)
{
    IWDG_KR = IWDG_KICK;
}

/* The normally closed contact of the e-stop pulls A10 (Arduino D2) to ground; pressed or with a broken wire it reads
 * high. */
bool board_estop_pressed(void)
{
    return (GPIOA_IDR & (1u << PIN_ESTOP)) != 0;
}
