/* Vector table and reset of the LM3S6965. */
#include <stdint.h>
#include <string.h>

extern uint32_t __stack_top[];
extern uint8_t __data_load[];
extern uint8_t __data_start[];
extern uint8_t __data_end[];
extern uint8_t __bss_start[];
extern uint8_t __bss_end[];

int main(void);
void reset_handler(void);
void uart0_handler(void);
void watchdog_handler(void);
void timer0a_handler(void);

/* A fault stops everything, so the watchdog resets the processor. */
static void fault_handler(void)
{
    for (;;) {
    }
}

void reset_handler(void)
{
    memcpy(__data_start, __data_load, (uintptr_t)__data_end - (uintptr_t)__data_start);
    memset(__bss_start, 0, (uintptr_t)__bss_end - (uintptr_t)__bss_start);
    (void)main();
    fault_handler();
}

typedef void (*handler)(void);

struct vector_table {
    const void *stack_top;
    handler system[15];
    handler interrupts[44];
};

__attribute__((section(".vectors"), used)) const struct vector_table vectors = {
    .stack_top = __stack_top,
    .system = {reset_handler, fault_handler, fault_handler, fault_handler, fault_handler, fault_handler, 0, 0, 0, 0,
               fault_handler, fault_handler, 0, fault_handler, fault_handler},
    .interrupts = {[5] = uart0_handler, [18] = watchdog_handler, [19] = timer0a_handler},
};
