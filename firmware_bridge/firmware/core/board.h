/* The interface between a board and the core. The core includes no hardware header.
 *
 * Three contexts run: the UART interrupt (highest priority; calls application_receive), the servo interrupt (calls
 * application_servo) and the main loop. The UART interrupt must be able to interrupt the servo's, or bytes are lost. */
#ifndef BOARD_H
#define BOARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "serial_link.h"

/* Clocks, UART and pins; interrupts come from here on. */
void board_init(void);
enum link_reset_cause board_reset_cause(void);

/* A counter that never stops and does not wrap within the life of the arm, and its frequency. */
uint64_t board_counter(void);
uint32_t board_counter_hz(void);

/* Calls application_servo at `epoch` + k * `period` of the counter, or as soon after as it can. Missed
 * calls are not repeated. */
void board_servo_start(uint64_t epoch, uint32_t period);

/* Masks the servo interrupt while the main loop changes shared data; returns what _unmask_servo takes. The UART
 * interrupt stays on where the processor can do that. */
uint32_t board_mask_servo(void);
void board_unmask_servo(uint32_t masked);

/* Sleeps until an interrupt, unless `is_work_waiting` (asked with all interrupts off) says there is work. */
void board_sleep_unless(bool (*is_work_waiting)(void));

/* Accepts bytes to send; returns how many, which may be 0. Never waits. */
size_t board_uart_write(const uint8_t *data, size_t size);

/* Resets the processor unless reloaded within `limit_ms`. */
void board_watchdog_start(uint32_t limit_ms);
void board_watchdog_kick(void);

/* The e-stop input. A board wires it so that a broken wire reads as pressed. */
bool board_estop_pressed(void);

/* Offered by boards with PWM outputs: the pulse of so many microseconds comes every 20 ms. */
void board_pwm_start(uint8_t channels);
void board_pwm_write(uint8_t channel, uint32_t pulse_us);

/* Offered by boards with servo buses, BOARD_BUSES of them (set in the Makefile), numbered from 0; half duplex, 8N1. Never
 * wait. A bus that is still sending takes nothing and returns false. Reading takes the bytes that came since; bytes that
 * the board itself sent may be among them. */
void board_bus_start(uint8_t bus, uint32_t baud);
bool board_bus_write(uint8_t bus, const uint8_t *data, size_t size);
size_t board_bus_read(uint8_t bus, uint8_t *data, size_t size);

/* Offered by the application. */
void application_servo(void);
void application_receive(uint8_t byte);
void application_receive_lost(void);

#endif
