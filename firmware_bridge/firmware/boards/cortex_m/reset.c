#include "cortex_m.h"

#include <string.h>

#include "board.h"

extern uint8_t __data_load[];
extern uint8_t __data_start[];
extern uint8_t __data_end[];
extern uint8_t __bss_start[];
extern uint8_t __bss_end[];

int main(void);

void fault_handler(void)
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

void board_sleep_unless(bool (*is_work_waiting)(void))
{
    const uint32_t primask = disable_interrupts();
    if (!is_work_waiting()) {
        __asm volatile("wfi" ::: "memory"); /* wakes up although interrupts are off */
    }
    restore_interrupts(primask);
}
