#include "host_line.h"

#include "board.h"
#include "pl011.h"
#include "registers.h"

enum { BAUD = 921600 };

static struct pl011 line;

void host_line_start(uint32_t clock_hz)
{
    pl011_start(&line, UART0_AT, UART_IFLS_EARLY, clock_hz, BAUD);
}

static void receive(void)
{
    uint8_t byte;
    bool lost = false;
    enum pl011_taken taken;
    while ((taken = pl011_take(&line, &byte, &lost)) != PL011_NOTHING) {
        if (lost) {
            application_receive_lost();
        }
        if (taken == PL011_BYTE) {
            application_receive(byte);
        }
    }
}

void uart0_handler(void)
{
    pl011_acknowledge(&line);
    receive();
    pl011_continue_sending(&line);
}

size_t board_uart_write(const uint8_t *data, size_t size)
{
    return pl011_write(&line, data, size);
}
