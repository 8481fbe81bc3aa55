/* Registers of the Raspberry Pi RP2040 and of its Cortex-M0+, as far as this board uses them; numbers of the datasheet.
 * A write at SET or CLEAR of an address changes only the bits that are one. */
#ifndef REGISTERS_H
#define REGISTERS_H

#include <stdint.h>

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define SET(address) REGISTER((address) + 0x2000u)
#define CLEAR(address) REGISTER((address) + 0x3000u)

/* Resets. */
#define RESETS_RESET 0x4000C000u
#define RESETS_DONE REGISTER(0x4000C008u)
#define RESET_IO_BANK0 (1u << 5)
#define RESET_PADS_BANK0 (1u << 8)
#define RESET_PLL_SYS (1u << 12)
#define RESET_PWM (1u << 14)
#define RESET_TIMER (1u << 21)
#define RESET_UART0 (1u << 22)
#define RESET_UART1 (1u << 23)
#define CHIP_RESET REGISTER(0x40064008u)
#define CHIP_RESET_HAD_POR (1u << 8)

/* What the watchdog resets: everything but the oscillators. */
#define PSM_WDSEL REGISTER(0x40010008u)
#define PSM_ALL_BUT_OSCILLATORS 0x0001FFFCu

/* Crystal oscillator, 12 MHz. */
#define XOSC_CTRL REGISTER(0x40024000u)
#define XOSC_STATUS REGISTER(0x40024004u)
#define XOSC_STARTUP REGISTER(0x4002400Cu)
#define XOSC_CTRL_ENABLE_1_15_MHZ ((0xFABu << 12) | 0xAA0u)
#define XOSC_STATUS_STABLE (1u << 31)

/* System PLL. */
#define PLL_CS REGISTER(0x40028000u)
#define PLL_PWR 0x40028004u
#define PLL_FBDIV REGISTER(0x40028008u)
#define PLL_PRIM REGISTER(0x4002800Cu)
#define PLL_CS_LOCKED (1u << 31)
#define PLL_PWR_MAIN_AND_VCO ((1u << 0) | (1u << 5))
#define PLL_PWR_POST_DIVIDERS (1u << 3)
#define PLL_PRIM_6_2 ((6u << 16) | (2u << 12))

/* Clocks. */
#define CLK_REF_CTRL REGISTER(0x40008030u)
#define CLK_REF_SELECTED REGISTER(0x40008038u)
#define CLK_SYS_CTRL REGISTER(0x4000803Cu)
#define CLK_SYS_SELECTED REGISTER(0x40008044u)
#define CLK_PERI_CTRL REGISTER(0x40008048u)
#define CLK_REF_XOSC 2u
#define CLK_SYS_REF 0u
#define CLK_SYS_AUX_PLL 1u
#define CLK_PERI_ENABLE (1u << 11)

/* Pins: 0 and 1 are UART 0, 8 and 9 UART 1; 15 is the e-stop. */
#define GPIO_CTRL(pin) REGISTER(0x40014004u + 8u * (pin))
#define GPIO_FUNCTION_UART 2u
#define GPIO_FUNCTION_PWM 4u
#define GPIO_FUNCTION_SIO 5u
#define PAD(pin) REGISTER(0x4001C004u + 4u * (pin))
#define PAD_INPUT_PULLED_UP ((1u << 6) | (1u << 3) | (1u << 1))
#define SIO_GPIO_IN REGISTER(0xD0000004u)

/* PL011 UARTs: 0 is the line to the host, 1 is the servo bus. */
#define UART0_AT 0x40034000u
#define UART1_AT 0x40038000u
#define UART_IFLS_EARLY 0u       /* 4 of 32 bytes received; 4 left to send */
#define UART_IFLS_HALF (2u << 3) /* 16 of 32 bytes received; 4 left to send */
#define BUS_LINES 1

/* PWM, eight slices of two outputs. */
#define PWM_CSR(slice) REGISTER(0x40050000u + 0x14u * (slice))
#define PWM_DIV(slice) REGISTER(0x40050004u + 0x14u * (slice))
#define PWM_COMPARE(slice) REGISTER(0x4005000Cu + 0x14u * (slice))
#define PWM_TOP(slice) REGISTER(0x40050010u + 0x14u * (slice))
#define PWM_CSR_ENABLE 1u

/* Timer: counts microseconds. */
#define TIMER_ALARM0 REGISTER(0x40054010u)
#define TIMER_RAW_HIGH REGISTER(0x40054024u)
#define TIMER_RAW_LOW REGISTER(0x40054028u)
#define TIMER_INTR REGISTER(0x40054034u)
#define TIMER_INTE REGISTER(0x40054038u)
#define TIMER_ALARM0_BIT 1u

/* Watchdog, and the microsecond that timer and watchdog count in. */
#define WATCHDOG_CTRL REGISTER(0x40058000u)
#define WATCHDOG_LOAD REGISTER(0x40058004u)
#define WATCHDOG_REASON REGISTER(0x40058008u)
#define WATCHDOG_TICK REGISTER(0x4005802Cu)
#define WATCHDOG_CTRL_ENABLE (1u << 30)
#define WATCHDOG_REASON_TIMER (1u << 0)
#define WATCHDOG_REASON_FORCED (1u << 1)
#define WATCHDOG_TICK_ENABLE (1u << 9)

/* Cortex-M0+. */
#define IRQ_TIMER0 0u
#define IRQ_UART0 20u
#define IRQ_UART1 21u
#define IRQ_SERVO IRQ_TIMER0
/* Priorities of 0x00, 0x40, 0x80, 0xC0; the host's UART keeps 0x00, the most urgent. */
#define PRIORITY_BUS 0x40u
#define PRIORITY_SERVO 0x80u

#endif
