/* The servo buses of this board, each on one wire: USART 1 on A9 (Arduino D8) and USART 6 on C6 (Morpho CN10, 4).
 *
 * The USARTs run in single-wire half-duplex mode: the pin is an open drain that the USART drives while it sends and
 * reads always, so a bus needs a pull-up of 2.2 kOhm to 3.3 V and nothing else, and what the board sends comes back.
 * The pins accept 5 V only because their own pull-ups stay off. Both directions run by DMA, without any interrupt:
 * into a ring that the servo step reads, and out of a copy. */
#include <string.h>

#include "board.h"
#include "registers.h"

enum { APB2_HZ = 72000000, BUS_LINES = 2, RECEIVED_SIZE = 512, LONGEST = 512, PIN_FIRST = 9, PIN_SECOND = 6 };

#ifdef BOARD_BUSES
_Static_assert(BOARD_BUSES == BUS_LINES, "the Makefile says how many buses there are");
#endif

struct usart {
    volatile uint32_t sr, dr, brr, cr1, cr2, cr3;
};

struct dma_stream {
    volatile uint32_t cr, ndtr, par, m0ar, m1ar, fcr;
};

/* One bus; channel and streams are those that the reference manual gives this USART (RM0390, DMA 2 request mapping). */
struct line {
    uintptr_t usart;
    uintptr_t receives;
    uintptr_t sends;
    uintptr_t sends_clear; /* register and bits that clear the flags of the stream that sends */
    uint32_t sends_flags;
    uint32_t channel;
};

static const struct line lines[BUS_LINES] = {
    {USART1_AT, DMA2_STREAM_AT(5), DMA2_STREAM_AT(7), DMA2_HIFCR, 0x3Du << 22, DMA_CR_CHANNEL(4u)},
    {USART6_AT, DMA2_STREAM_AT(1), DMA2_STREAM_AT(6), DMA2_HIFCR, 0x3Du << 16, DMA_CR_CHANNEL(5u)},
};

static uint8_t received[BUS_LINES][RECEIVED_SIZE];
static uint32_t received_read[BUS_LINES];
static uint8_t sending[BUS_LINES][LONGEST];

static struct usart *usart_of(uint8_t bus)
{
    return (struct usart *)lines[bus].usart;
}

static struct dma_stream *receiving_stream(uint8_t bus)
{
    return (struct dma_stream *)lines[bus].receives;
}

static struct dma_stream *sending_stream(uint8_t bus)
{
    return (struct dma_stream *)lines[bus].sends;
}

static void start_first_pin(void)
{
    RCC_APB2ENR |= RCC_APB2ENR_USART1;
    (void)RCC_APB2ENR; /* a peripheral answers two clocks after its gate opens */
    GPIOA_OTYPER |= GPIO_OPEN_DRAIN << PIN_FIRST;
    GPIOA_OSPEEDR |= GPIO_FAST << (2 * PIN_FIRST);
    GPIOA_AFRH |= GPIO_USART1 << (4 * (PIN_FIRST - 8));
    GPIOA_MODER |= GPIO_MODE_ALTERNATE << (2 * PIN_FIRST);
}

static void start_second_pin(void)
{
    RCC_APB2ENR |= RCC_APB2ENR_USART6;
    RCC_AHB1ENR |= RCC_AHB1ENR_GPIOC;
    (void)RCC_AHB1ENR;
    GPIOC_OTYPER |= GPIO_OPEN_DRAIN << PIN_SECOND;
    GPIOC_OSPEEDR |= GPIO_FAST << (2 * PIN_SECOND);
    GPIOC_AFRL |= GPIO_USART6 << (4 * PIN_SECOND);
    GPIOC_MODER |= GPIO_MODE_ALTERNATE << (2 * PIN_SECOND);
}

static void start_receiving(uint8_t bus)
{
    struct dma_stream *stream = receiving_stream(bus);
    stream->par = (uint32_t)(uintptr_t)&usart_of(bus)->dr;
    stream->m0ar = (uint32_t)(uintptr_t)received[bus];
    stream->ndtr = RECEIVED_SIZE;
    stream->cr = lines[bus].channel | DMA_CR_INCREMENT | DMA_CR_CIRCULAR;
    stream->cr |= DMA_CR_ENABLE;
}

void board_bus_start(uint8_t bus, uint32_t baud)
{
    struct usart *usart = usart_of(bus);
    RCC_AHB1ENR |= RCC_AHB1ENR_DMA2;
    (void)RCC_AHB1ENR;
    if (bus == 0) {
        start_first_pin();
    } else {
        start_second_pin();
    }
    start_receiving(bus);
    usart->brr = (APB2_HZ + baud / 2u) / baud;
    usart->cr3 = USART_CR3_HALF_DUPLEX | USART_CR3_RECEIVE_BY_DMA | USART_CR3_SEND_BY_DMA;
    usart->cr1 = USART_CR1_ENABLE | USART_CR1_RECEIVE | USART_CR1_SEND;
}

static bool is_sending(uint8_t bus)
{
    return (sending_stream(bus)->cr & DMA_CR_ENABLE) != 0 || (usart_of(bus)->sr & USART_SR_SENT) == 0;
}

/* Reading the status and then the data ends an overrun or a damaged byte, of which the DMA has already taken the
 * data. */
static void forget_errors(uint8_t bus)
{
    (void)usart_of(bus)->sr;
    (void)usart_of(bus)->dr;
}

bool board_bus_write(uint8_t bus, const uint8_t *data, size_t size)
{
    if (bus >= BUS_LINES || size > LONGEST || is_sending(bus)) {
        return false;
    }
    struct dma_stream *stream = sending_stream(bus);
    forget_errors(bus);
    memcpy(sending[bus], data, size);
    REGISTER(lines[bus].sends_clear) = lines[bus].sends_flags;
    usart_of(bus)->sr = ~USART_SR_SENT; /* a one leaves the other flags as they are */
    stream->par = (uint32_t)(uintptr_t)&usart_of(bus)->dr;
    stream->m0ar = (uint32_t)(uintptr_t)sending[bus];
    stream->ndtr = size;
    stream->cr = lines[bus].channel | DMA_CR_INCREMENT | DMA_CR_TO_PERIPHERAL;
    stream->cr |= DMA_CR_ENABLE;
    return true;
}

size_t board_bus_read(uint8_t bus, uint8_t *data, size_t size)
{
    if (bus >= BUS_LINES) {
        return 0;
    }
    const uint32_t written = (RECEIVED_SIZE - receiving_stream(bus)->ndtr) % RECEIVED_SIZE;
    size_t taken = 0;
    while (taken < size && received_read[bus] != written) {
        data[taken++] = received[bus][received_read[bus]];
        received_read[bus] = (received_read[bus] + 1u) % RECEIVED_SIZE;
    }
    return taken;
}
