/* Registers of the STM32F446 and of its Cortex-M4, as far as this board uses them; numbers of RM0390. */
#ifndef REGISTERS_H
#define REGISTERS_H

#include <stdint.h>

#define REGISTER(address) (*(volatile uint32_t *)(address))

/* Reset and clocks. */
#define RCC_CR REGISTER(0x40023800u)
#define RCC_PLLCFGR REGISTER(0x40023804u)
#define RCC_CFGR REGISTER(0x40023808u)
#define RCC_AHB1ENR REGISTER(0x40023830u)
#define RCC_APB1ENR REGISTER(0x40023840u)
#define RCC_APB2ENR REGISTER(0x40023844u)
#define RCC_CSR REGISTER(0x40023874u)
#define RCC_CR_HSE_ON (1u << 16)
#define RCC_CR_HSE_READY (1u << 17)
#define RCC_CR_HSE_BYPASS (1u << 18)
#define RCC_CR_PLL_ON (1u << 24)
#define RCC_CR_PLL_READY (1u << 25)
#define RCC_PLL_M(divider) (divider)
#define RCC_PLL_N(factor) ((factor) << 6)
#define RCC_PLL_P_2 (0u << 16)
#define RCC_PLL_Q_6 (6u << 24)
#define RCC_PLL_FROM_HSE (1u << 22)
#define RCC_CFGR_SYSCLK_PLL (2u << 0)
#define RCC_CFGR_RUNS_ON_PLL (2u << 2)
#define RCC_CFGR_APB1_BY_4 (5u << 10)
#define RCC_CFGR_APB2_BY_2 (4u << 13)
#define RCC_AHB1ENR_GPIOA (1u << 0)
#define RCC_AHB1ENR_GPIOC (1u << 2)
#define RCC_AHB1ENR_DMA1 (1u << 21)
#define RCC_AHB1ENR_DMA2 (1u << 22)
#define RCC_APB1ENR_TIM5 (1u << 3)
#define RCC_APB1ENR_USART2 (1u << 17)
#define RCC_APB2ENR_USART1 (1u << 4)
#define RCC_APB2ENR_USART6 (1u << 5)
#define RCC_CSR_FORGET (1u << 24)
#define RCC_CSR_POWER_ON (1u << 27)
#define RCC_CSR_SOFTWARE (1u << 28)
#define RCC_CSR_WATCHDOG (1u << 29)
#define FLASH_ACR REGISTER(0x40023C00u)
#define FLASH_ACR_4_WAITS_CACHED ((4u << 0) | (7u << 8))

/* Pins: A2 and A3 are the UART to the host, A10 is the e-stop, A9 and C6 are the servo buses. */
#define GPIOA_MODER REGISTER(0x40020000u)
#define GPIOA_PUPDR REGISTER(0x4002000Cu)
#define GPIOA_IDR REGISTER(0x40020010u)
#define GPIOA_AFRL REGISTER(0x40020020u)
#define GPIOA_OTYPER REGISTER(0x40020004u)
#define GPIOA_OSPEEDR REGISTER(0x40020008u)
#define GPIOA_AFRH REGISTER(0x40020024u)
#define GPIOC_MODER REGISTER(0x40020800u)
#define GPIOC_OTYPER REGISTER(0x40020804u)
#define GPIOC_OSPEEDR REGISTER(0x40020808u)
#define GPIOC_AFRL REGISTER(0x40020820u)
#define GPIO_MODE_ALTERNATE 2u
#define GPIO_PULLED_UP 1u
#define GPIO_OPEN_DRAIN 1u
#define GPIO_FAST 2u
#define GPIO_USART1 7u
#define GPIO_USART2 7u
#define GPIO_USART6 8u

/* USART 2. */
#define USART2_SR REGISTER(0x40004400u)
#define USART2_DR REGISTER(0x40004404u)
#define USART2_BRR REGISTER(0x40004408u)
#define USART2_CR1 REGISTER(0x4000440Cu)
#define USART2_CR3 REGISTER(0x40004414u)
#define USART_SR_OVERRUN (1u << 3)
#define USART_SR_IDLE (1u << 4)
#define USART_SR_MAY_SEND (1u << 7)
#define USART_CR1_RECEIVE (1u << 2)
#define USART_CR1_SEND (1u << 3)
#define USART_CR1_IDLE_INTERRUPT (1u << 4)
#define USART_CR1_SEND_INTERRUPT (1u << 7)
#define USART_CR1_ENABLE (1u << 13)
#define USART_CR3_RECEIVE_BY_DMA (1u << 6)
#define USART_CR3_SEND_BY_DMA (1u << 7)
#define USART_CR3_HALF_DUPLEX (1u << 3)
#define USART_SR_SENT (1u << 6)
#define USART_CR3_ERROR_INTERRUPT (1u << 0)

/* DMA 1, stream 5: what USART 2 receives (channel 4). */
#define DMA1_HIFCR REGISTER(0x4002600Cu)
#define DMA1_S5CR REGISTER(0x40026088u)
#define DMA1_S5NDTR REGISTER(0x4002608Cu)
#define DMA1_S5PAR REGISTER(0x40026090u)
#define DMA1_S5M0AR REGISTER(0x40026094u)
#define DMA_HIFCR_STREAM_5 (0x3Du << 6)
#define DMA_CR_CIRCULAR_BYTES_OF_CHANNEL_4 ((4u << 25) | (1u << 10) | (1u << 8))
#define DMA_CR_HALF_AND_WHOLE_INTERRUPTS ((1u << 3) | (1u << 4))
#define DMA_CR_ENABLE 1u

/* USART 1 and 6, the servo buses, and the streams of DMA 2 that serve them. */
#define USART1_AT 0x40011000u
#define USART6_AT 0x40011400u
#define DMA2_STREAM_AT(stream) (0x40026410u + 0x18u * (stream))
#define DMA2_LIFCR 0x40026408u
#define DMA2_HIFCR 0x4002640Cu
#define DMA_CR_CHANNEL(channel) ((channel) << 25)
#define DMA_CR_INCREMENT (1u << 10)
#define DMA_CR_CIRCULAR (1u << 8)
#define DMA_CR_TO_PERIPHERAL (1u << 6)

/* Timer 5, 32 bits. */
#define TIM5_CR1 REGISTER(0x40000C00u)
#define TIM5_DIER REGISTER(0x40000C0Cu)
#define TIM5_SR REGISTER(0x40000C10u)
#define TIM5_EGR REGISTER(0x40000C14u)
#define TIM5_CNT REGISTER(0x40000C24u)
#define TIM5_PSC REGISTER(0x40000C28u)
#define TIM5_ARR REGISTER(0x40000C2Cu)
#define TIM5_CCR1 REGISTER(0x40000C34u)
#define TIM_ENABLE 1u
#define TIM_UPDATE 1u
#define TIM_COMPARE_1 2u

/* Independent watchdog, on its own oscillator of about 32 kHz. */
#define IWDG_KR REGISTER(0x40003000u)
#define IWDG_PR REGISTER(0x40003004u)
#define IWDG_RLR REGISTER(0x40003008u)
#define IWDG_START 0xCCCCu
#define IWDG_UNLOCK 0x5555u
#define IWDG_KICK 0xAAAAu
#define IWDG_BY_32 3u

/* Cortex-M4. */
#define SCB_CPACR REGISTER(0xE000ED88u)
#define SCB_CPACR_FPU (0xFu << 20)

#define IRQ_DMA1_STREAM5 16u
#define IRQ_USART2 38u
#define IRQ_TIM5 50u
#define IRQ_SERVO IRQ_TIM5
#define PRIORITY_SERVO 0x60u /* less urgent than the UART */

#endif
