/* Vector table of the LM3S6965. */
#include "bus_line.h"
#include "cortex_m.h"
#include "host_line.h"
#include "registers.h"

extern uint32_t __stack_top[];

void watchdog_handler(void);

__attribute__((section(".vectors"), used)) const struct vector_table vectors = {
    .stack_top = __stack_top,
    .system = {reset_handler, fault_handler, fault_handler, fault_handler, fault_handler, fault_handler, 0, 0, 0, 0,
               fault_handler, fault_handler, 0, fault_handler, fault_handler},
    .interrupts = {[IRQ_UART0] = uart0_handler,
                   [IRQ_UART1] = uart1_handler,
                   [IRQ_WATCHDOG] = watchdog_handler,
                   [IRQ_SERVO] = servo_alarm_handler,
                   [IRQ_UART2] = uart2_handler},
};
