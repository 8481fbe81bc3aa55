/* Registers of the Texas Instruments (Luminary) LM3S6965 and of its Cortex-M3, as far as this board uses them. */
#ifndef REGISTERS_H
#define REGISTERS_H

#include <stdint.h>

#define REGISTER(address) (*(volatile uint32_t *)(address))

/* System control. */
#define SYSCTL_RIS REGISTER(0x400FE050u)
#define SYSCTL_RESC REGISTER(0x400FE05Cu)
#define SYSCTL_RCC REGISTER(0x400FE060u)
#define SYSCTL_RCGC0 REGISTER(0x400FE100u)
#define SYSCTL_RCGC1 REGISTER(0x400FE104u)
#define SYSCTL_RCGC2 REGISTER(0x400FE108u)
#define SYSCTL_RIS_PLL_LOCKED (1u << 6)
#define SYSCTL_RESC_WATCHDOG (1u << 3)
#define SYSCTL_RESC_SOFTWARE (1u << 4)
#define SYSCTL_RESC_POWER_ON (1u << 1)
#define SYSCTL_RCC_BYPASS (1u << 11)
#define SYSCTL_RCC_PLL_OFF ((1u << 13) | (1u << 12))
#define SYSCTL_RCC_USE_DIVIDER (1u << 22)
#define SYSCTL_RCC_DIVIDE_BY_8 (7u << 23)
#define SYSCTL_RCC_CRYSTAL_8_MHZ (14u << 6)
#define SYSCTL_RCGC0_WATCHDOG (1u << 3)
#define SYSCTL_RCGC1_UART0 (1u << 0)
#define SYSCTL_RCGC1_UART1 (1u << 1)
#define SYSCTL_RCGC1_UART2 (1u << 2)
#define SYSCTL_RCGC1_TIMER0 (1u << 16)
#define SYSCTL_RCGC2_GPIOA (1u << 0)
#define SYSCTL_RCGC2_GPIOD (1u << 3)
#define SYSCTL_RCGC2_GPIOF (1u << 5)
#define SYSCTL_RCGC2_GPIOG (1u << 6)

/* PL061 pins: A0 and A1 are UART 0, D2 and D3 UART 1, G0 and G1 UART 2; F1 is the e-stop. */
#define GPIOA_AFSEL REGISTER(0x40004420u)
#define GPIOA_DEN REGISTER(0x4000451Cu)
#define GPIOD_AFSEL REGISTER(0x40007420u)
#define GPIOD_DEN REGISTER(0x4000751Cu)
#define GPIOG_AFSEL REGISTER(0x40026420u)
#define GPIOG_DEN REGISTER(0x4002651Cu)
#define GPIOF_PIN1 REGISTER(0x40025008u) /* address bits 9:2 mask the data */
#define GPIOF_PUR REGISTER(0x40025510u)
#define GPIOF_DEN REGISTER(0x4002551Cu)

/* PL011 UARTs: 0 is the line to the host, 1 and 2 are the servo buses. */
#define UART0_AT 0x4000C000u
#define UART1_AT 0x4000D000u
#define UART2_AT 0x4000E000u
#define UART_IFLS_EARLY (1u << 3) /* 4 of 16 bytes received; 2 left to send */
#define UART_IFLS_HALF (2u << 3)  /* 8 of 16 bytes received; 2 left to send */
#define BUS_LINES 2

/* General-purpose timer 0. */
#define TIMER0_CFG REGISTER(0x40030000u)
#define TIMER0_TAMR REGISTER(0x40030004u)
#define TIMER0_CTL REGISTER(0x4003000Cu)
#define TIMER0_IMR REGISTER(0x40030018u)
#define TIMER0_ICR REGISTER(0x40030024u)
#define TIMER0_TAILR REGISTER(0x40030028u)
#define TIMER_CFG_32_BIT 0u
#define TIMER_TAMR_ONE_SHOT 1u
#define TIMER_ENABLE 1u
#define TIMER_TIMEOUT 1u

/* Watchdog. */
#define WATCHDOG_LOAD REGISTER(0x40000000u)
#define WATCHDOG_CTL REGISTER(0x40000008u)
#define WATCHDOG_ICR REGISTER(0x4000000Cu)
#define WATCHDOG_CTL_INTERRUPT (1u << 0)
#define WATCHDOG_CTL_RESET (1u << 1)

/* Cortex-M3. */
#define SYSTICK_CTRL REGISTER(0xE000E010u)
#define SYSTICK_LOAD REGISTER(0xE000E014u)
#define SYSTICK_VALUE REGISTER(0xE000E018u)
#define SYSTICK_CTRL_RUN_ON_CORE_CLOCK ((1u << 0) | (1u << 2))
#define SCB_AIRCR REGISTER(0xE000ED0Cu)
#define SCB_AIRCR_RESET (0x05FA0000u | (1u << 2))

#define IRQ_UART0 5u
#define IRQ_UART1 6u
#define IRQ_WATCHDOG 18u
#define IRQ_TIMER0A 19u
#define IRQ_UART2 33u
#define IRQ_SERVO IRQ_TIMER0A
#define PRIORITY_BUS 0x40u   /* less urgent than the host's UART */
#define PRIORITY_SERVO 0x60u /* less urgent than both */

#endif
