#include "sequence_window.h"

enum { REMEMBERED = 32 };

void sequence_window_restart(struct sequence_window *window)
{
    window->seen = 0;
}

static void advance(struct sequence_window *window, uint16_t seq, uint32_t steps)
{
    window->seen = steps < REMEMBERED ? window->seen << steps : 0;
    window->seen |= 1u;
    window->newest = seq;
}

bool sequence_window_accept(struct sequence_window *window, uint16_t seq)
{
    const uint16_t distance = (uint16_t)(seq - window->newest);
    const uint16_t back = (uint16_t)(window->newest - seq);
    if (window->seen == 0) {
        advance(window, seq, 1);
    } else if (distance != 0 && distance < 0x8000u) {
        window->gaps += distance - 1u;
        advance(window, seq, distance);
    } else if (back >= REMEMBERED) {
        advance(window, seq, REMEMBERED);
    } else if ((window->seen >> back & 1u) != 0) {
        window->duplicates++;
        return false;
    } else {
        window->seen |= 1u << back;
    }
    return true;
}
