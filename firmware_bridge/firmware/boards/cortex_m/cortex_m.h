/* What every Cortex-M board does alike. */
#ifndef CORTEX_M_H
#define CORTEX_M_H

#include <stdint.h>

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

typedef void (*interrupt_handler)(void);

/* The table of a processor with `interrupts` interrupts of its own; vectors.c of each board fills it. */
struct vector_table {
    const void *stack_top;
    interrupt_handler system[15];
    interrupt_handler interrupts[];
};

/* Set up memory and run main; a fault stops everything, so that the watchdog resets the processor. */
void reset_handler(void);
void fault_handler(void);

#endif
