/* What every board with a Cortex-M has in common: reset, interrupts, and the servo interrupt.
 *
 * A new board provides board.c (the functions of core/board.h that this folder does not define), vectors.c, memory.ld,
 * and registers.h, which defines IRQ_SERVO and PRIORITY_SERVO.
 *
 * The servo interrupt is the part in which a mistake in a new board is most likely. servo_alarm.c therefore defines
 * board_servo_start, board_mask_servo and board_unmask_servo for all boards, and the board only sets and acknowledges
 * an alarm, by the two hooks below. These rules hold:
 *
 *   - The steps begin at epoch + k * period of the free-running counter, board_counter. The alarm is set anew for each
 *     step from that counter, never from the alarm before: a periodic timer beside the counter would drift from it.
 *   - The interrupt must not come before its step begins: control_servo would compute the previous step, do
 *     nothing, and skip this one. A board whose alarm may round down adds a margin.
 *   - A compare register that is set to a time already past matches only after the counter has wrapped, up to an hour
 *     later. servo_alarm.c reads the counter once more after it set the alarm, and makes the interrupt pending itself
 *     where the time is past. An additional interrupt within a step changes nothing.
 *   - The interrupt is enabled in the NVIC only by board_servo_start. Until then a match of the compare register
 *     (at 0, when the counter starts) stays without effect.
 *   - The UART interrupt has a higher priority (a lower number) than PRIORITY_SERVO, and the mask disables only the
 *     servo interrupt. Cortex-M3 and later mask by priority (BASEPRI); Cortex-M0+ has no BASEPRI and disables that one
 *     interrupt in the NVIC. */
#ifndef CORTEX_M_H
#define CORTEX_M_H

#include <stdint.h>

/* The hooks: every board defines them.
 *
 * Set the alarm: IRQ_SERVO comes when board_counter reaches `at`, or a little later. Replaces the alarm before. */
void servo_alarm_set(uint64_t at);

/* Acknowledge the alarm, so that the interrupt ends. */
void servo_alarm_acknowledge(void);

/* The handler of IRQ_SERVO, for the vector table. */
void servo_alarm_handler(void);

static inline uint32_t disable_interrupts(void)
{
    uint32_t primask;
    __asm volatile("mrs %0, primask\n\tcpsid i" : "=r"(primask)::"memory");
    return primask;
}

static inline void restore_interrupts(uint32_t primask)
{
    __asm volatile("msr primask, %0" ::"r"(primask) : "memory");
}

/* The NVIC: one bit for each interrupt in a register of 32, and one byte of priority. Cortex-M0+ accesses only whole
 * words. */
#define NVIC_REGISTER(address) (*(volatile uint32_t *)(address))
#define NVIC_ENABLE(irq) NVIC_REGISTER(0xE000E100u + 4u * ((irq) / 32u))
#define NVIC_DISABLE(irq) NVIC_REGISTER(0xE000E180u + 4u * ((irq) / 32u))
#define NVIC_SET_PENDING(irq) NVIC_REGISTER(0xE000E200u + 4u * ((irq) / 32u))
#define NVIC_CLEAR_PENDING(irq) NVIC_REGISTER(0xE000E280u + 4u * ((irq) / 32u))
#define NVIC_PRIORITY(irq) NVIC_REGISTER(0xE000E400u + 4u * ((irq) / 4u))
#define NVIC_BIT(irq) (1u << ((irq) % 32u))

static inline void set_interrupt_priority(uint32_t irq, uint8_t priority)
{
    const uint32_t shift = 8u * (irq % 4u);
    NVIC_PRIORITY(irq) = (NVIC_PRIORITY(irq) & ~(0xFFu << shift)) | ((uint32_t)priority << shift);
}

static inline void enable_interrupt(uint32_t irq)
{
    NVIC_ENABLE(irq) = NVIC_BIT(irq);
}

typedef void (*interrupt_handler)(void);

/* The vector table of a processor with `interrupts` interrupts of its own; vectors.c of each board defines it. */
struct vector_table {
    const void *stack_top;
    interrupt_handler system[15];
    interrupt_handler interrupts[];
};

/* Sets up memory and runs main. */
void reset_handler(void);

/* Loops forever, so that the watchdog resets the processor. */
void fault_handler(void);

#endif
