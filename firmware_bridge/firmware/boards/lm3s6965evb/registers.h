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
#define SYSCTL_RCGC1_TIMER0 (1u << 16)
#define SYSCTL_RCGC2_GPIOA (1u << 0)
#define SYSCTL_RCGC2_GPIOF (1u << 5)

/* PL061 pins: A0 and A1 are the UART, F1 is the e-stop. */
#define GPIOA_AFSEL REGISTER(0x40004420u)
#define GPIOA_DEN REGISTER(0x4000451Cu)
#define GPIOF_PIN1 REGISTER(0x40025008u) /* address bits 9:2 mask the data */
#define GPIOF_PUR REGISTER(0x40025510u)
#define GPIOF_DEN REGISTER(0x4002551Cu)

/* PL011 UART. */
#define UART0_DR REGISTER(0x4000C000u)
#define UART0_FR REGISTER(0x4000C018u)
#define UART0_IBRD REGISTER(0x4000C024u)
#define UART0_FBRD REGISTER(0x4000C028u)
#define UART0_LCRH REGISTER(0x4000C02Cu)
#define UART0_CTL REGISTER(0x4000C030u)
#define UART0_IFLS REGISTER(0x4000C034u)
#define UART0_IM REGISTER(0x4000C038u)
#define UART0_ICR REGISTER(0x4000C044u)
#define UART_DR_OVERRUN (1u << 11)
#define UART_DR_DAMAGED (7u << 8) /* framing, parity, break */
#define UART_FR_RECEIVE_EMPTY (1u << 4)
#define UART_FR_TRANSMIT_FULL (1u << 5)
#define UART_LCRH_8_BITS_FIFO ((3u << 5) | (1u << 4))
#define UART_CTL_ENABLE ((1u << 0) | (1u << 8) | (1u << 9))
#define UART_IFLS_EARLY (1u << 3) /* 4 of 16 bytes received; 2 left to send */
#define UART_IM_RECEIVE ((1u << 4) | (1u << 6)) /* level and timeout */
#define UART_IM_TRANSMIT (1u << 5)

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
#define IRQ_WATCHDOG 18u
#define IRQ_TIMER0A 19u
#define IRQ_SERVO IRQ_TIMER0A
#define PRIORITY_SERVO 0x60u /* less urgent than the UART */

#endif
