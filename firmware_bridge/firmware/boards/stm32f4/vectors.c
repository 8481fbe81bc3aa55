/* Vector table of the STM32F446. */
#include "cortex_m.h"
#include "registers.h"

extern uint32_t __stack_top[];

void dma1_stream5_handler(void);
void usart2_handler(void);

__attribute__((section(".vectors"), used)) const struct vector_table vectors = {
    .stack_top = __stack_top,
    .system = {reset_handler, fault_handler, fault_handler, fault_handler, fault_handler, fault_handler, 0, 0, 0, 0,
               fault_handler, fault_handler, 0, fault_handler, fault_handler},
    .interrupts = {[IRQ_DMA1_STREAM5] = dma1_stream5_handler,
                   [IRQ_USART2] = usart2_handler,
                   [IRQ_SERVO] = servo_alarm_handler,
                   [96] = 0},
};
