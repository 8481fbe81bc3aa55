#include "uart.h"

#include "board.h"
#include "registers.h"

enum { BAUD = 921600, RECEIVED_SIZE = 256, SENT_SIZE = 512 };

/* The DMA writes, the interrupts read: when half of it is full, when all is, and when the line is idle. */
static uint8_t received[RECEIVED_SIZE];
static uint32_t received_read;

/* The main loop writes, the interrupt sends. */
static uint8_t sent[SENT_SIZE];
static volatile uint32_t sent_written;
static volatile uint32_t sent_read;

static const uint32_t ALWAYS = USART_CR1_ENABLE | USART_CR1_RECEIVE | USART_CR1_SEND | USART_CR1_IDLE_INTERRUPT;

void uart_start(uint32_t clock_hz)
{
    DMA1_S5PAR = (uint32_t)(uintptr_t)&USART2_DR;
    DMA1_S5M0AR = (uint32_t)(uintptr_t)received;
    DMA1_S5NDTR = RECEIVED_SIZE;
    DMA1_S5CR = DMA_CR_CIRCULAR_BYTES_OF_CHANNEL_4 | DMA_CR_HALF_AND_WHOLE_INTERRUPTS;
    DMA1_S5CR |= DMA_CR_ENABLE;
    USART2_BRR = (clock_hz + BAUD / 2u) / BAUD;
    USART2_CR3 = USART_CR3_RECEIVE_BY_DMA | USART_CR3_ERROR_INTERRUPT;
    USART2_CR1 = ALWAYS;
}

static void receive(void)
{
    const uint32_t written = RECEIVED_SIZE - DMA1_S5NDTR;
    while (received_read != written % RECEIVED_SIZE) {
        application_receive(received[received_read]);
        received_read = (received_read + 1u) % RECEIVED_SIZE;
    }
}

static void transmit(void)
{
    if (sent_read != sent_written) {
        USART2_DR = sent[sent_read % SENT_SIZE];
        sent_read++;
    } else {
        USART2_CR1 = ALWAYS;
    }
}

void dma1_stream5_handler(void);
void dma1_stream5_handler(void)
{
    DMA1_HIFCR = DMA_HIFCR_STREAM_5;
    receive();
}

void usart2_handler(void);
void usart2_handler(void)
{
    const uint32_t status = USART2_SR;
    if ((status & USART_SR_OVERRUN) != 0) {
        application_receive_lost();
    }
    if ((status & (USART_SR_IDLE | USART_SR_OVERRUN)) != 0) {
        (void)USART2_DR; /* reading the status and then the data ends both; the DMA has the byte */
        receive();
    }
    if ((status & USART_SR_MAY_SEND) != 0 && (USART2_CR1 & USART_CR1_SEND_INTERRUPT) != 0) {
        transmit();
    }
}

size_t board_uart_write(const uint8_t *data, size_t size)
{
    size_t taken = 0;
    while (taken < size && sent_written - sent_read < SENT_SIZE) {
        sent[sent_written % SENT_SIZE] = data[taken++];
        sent_written++;
    }
    if (taken > 0) {
        USART2_CR1 = ALWAYS | USART_CR1_SEND_INTERRUPT;
    }
    return taken;
}
