/* The servo interrupt of every Cortex-M board; cortex_m.h explains its rules. */
#include "board.h"
#include "cortex_m.h"
#include "registers.h"

static uint64_t servo_epoch;
static uint32_t servo_period;

static void set_next_alarm(void)
{
    const uint64_t now = board_counter();
    const uint64_t next = servo_epoch + ((now - servo_epoch) / servo_period + 1u) * servo_period;
    servo_alarm_set(next);
    if (board_counter() >= next) {
        NVIC_SET_PENDING(IRQ_SERVO) = NVIC_BIT(IRQ_SERVO);
    }
}

void board_servo_start(uint64_t epoch, uint32_t period)
{
    servo_epoch = epoch;
    servo_period = period;
    set_interrupt_priority(IRQ_SERVO, PRIORITY_SERVO);
    servo_alarm_acknowledge();
    NVIC_CLEAR_PENDING(IRQ_SERVO) = NVIC_BIT(IRQ_SERVO);
    set_next_alarm();
    enable_interrupt(IRQ_SERVO);
}

void servo_alarm_handler(void)
{
    servo_alarm_acknowledge();
    application_servo();
    set_next_alarm();
}

#if defined(__ARM_ARCH) && __ARM_ARCH >= 7

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

#else

/* The interrupt may still come until the barriers have passed. */
uint32_t board_mask_servo(void)
{
    const uint32_t enabled = NVIC_ENABLE(IRQ_SERVO) & NVIC_BIT(IRQ_SERVO);
    NVIC_DISABLE(IRQ_SERVO) = NVIC_BIT(IRQ_SERVO);
    __asm volatile("dsb\n\tisb" ::: "memory");
    return enabled;
}

void board_unmask_servo(uint32_t masked)
{
    __asm volatile("" ::: "memory");
    NVIC_ENABLE(IRQ_SERVO) = masked;
}

#endif
