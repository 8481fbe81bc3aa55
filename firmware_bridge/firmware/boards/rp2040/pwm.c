/* PWM outputs of the Pico: a pulse every 20 ms on the pins 2 to 14, 16 and 17. Two pins share a slice. */
#include "board.h"
#include "registers.h"

enum { FIRST_PIN = 2, MOST_CHANNELS = 15, CORE_MHZ = 125, PERIOD_US = 20000, PIN_ESTOP = 15 };

static uint32_t pin_of(uint8_t channel)
{
    const uint32_t pin = FIRST_PIN + channel;
    return pin < PIN_ESTOP ? pin : pin + 1u;
}

static uint32_t slice_of(uint32_t pin)
{
    return (pin / 2u) % 8u;
}

void board_pwm_start(uint8_t channels)
{
    CLEAR(RESETS_RESET) = RESET_PWM;
    while ((RESETS_DONE & RESET_PWM) == 0) {
    }
    for (uint8_t channel = 0; channel < channels && channel < MOST_CHANNELS; channel++) {
        const uint32_t pin = pin_of(channel);
        PWM_DIV(slice_of(pin)) = CORE_MHZ << 4;
        PWM_TOP(slice_of(pin)) = PERIOD_US - 1u;
        PWM_CSR(slice_of(pin)) = PWM_CSR_ENABLE;
        GPIO_CTRL(pin) = GPIO_FUNCTION_PWM;
    }
}

void board_pwm_write(uint8_t channel, uint32_t pulse_us)
{
    if (channel >= MOST_CHANNELS) {
        return;
    }
    const uint32_t pin = pin_of(channel);
    const uint32_t shift = 16u * (pin % 2u);
    PWM_COMPARE(slice_of(pin)) = (PWM_COMPARE(slice_of(pin)) & ~(0xFFFFu << shift)) | (pulse_us << shift);
}
