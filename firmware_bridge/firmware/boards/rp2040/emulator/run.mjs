// Runs a flashable RP2040 image for a while of its own time, with a script of what happens on its pins.
//
//   node run.mjs firmware.uf2 SECONDS < script.jsonl > sent.bin
//
// A line of the script is one of
//   {"at_us": T, "bytes": "hex"}   sent to UART 0 from T on at the baud rate that the image has set
//   {"at_us": T, "estop": true}
//   {"at_us": T, "hang": "main"}   has the main loop ("servo": the servo interrupt) spin for ever
//   {"at_us": T, "servos": {...}}  connects servos to UART 1; servos.mjs says what they are
//   {"at_us": T, "registers": {"ID": {"ADDRESS": "hex"}}}  changes their registers
//   {"at_us": T, "unplug": [ID]}   disconnects some of them
//
// What the image sends goes to standard output, figures as JSON to standard error; the run ends when the watchdog
// resets the board. Time is counted in instructions, so that the same image and script give the same output byte for byte.
//
// The emulator has no boot ROM; this does what the ROM does: it checks the CRC of the second boot stage, copies it to
// RAM and calls it.
import { readFileSync, writeSync } from 'node:fs';
import { ConsoleLogger, LogLevel, RP2040 } from 'rp2040js';
import { Servos } from './servos.mjs';

const CYCLE_NS = 8; // 125 MHz
const BITS_PER_BYTE = 10;
const FLASH = 0x10000000;
const BOOT2_SIZE = 256;
const BOOT2_AT = 0x20041f00;
const ESTOP_PIN = 15;
const WATCHDOG = 0x40058;
const PWM_SLICES = 8;
const PWM_COMPARE = 0x0c;
const PWM_STRIDE = 0x14;
const UF2 = { blockSize: 512, start: [0x0a324655, 0x9e5d5157], family: 0xe48bff56 };
const EXCEPTION = { main: 0, servo: 16, uart: 36, bus: 37 };
const RAM = { start: 0x20000000, size: 264 * 1024 };
const SPIN = { instruction: 0xe7fe, at: 0x20041f00 }; // b . where boot2 was

function loadUf2(path, flash) {
  const file = readFileSync(path);
  for (let at = 0; at < file.length; at += UF2.blockSize) {
    const word = (offset) => file.readUInt32LE(at + offset);
    if (word(0) !== UF2.start[0] || word(4) !== UF2.start[1] || word(28) !== UF2.family) {
      throw new Error(`${path}: block ${at / UF2.blockSize} is no UF2 block for the RP2040`);
    }
    flash.set(file.subarray(at + 32, at + 32 + word(16)), word(12) - FLASH);
  }
}

function crcOfRom(data) {
  let crc = 0xffffffff;
  for (const byte of data) {
    crc ^= byte << 24;
    for (let bit = 0; bit < 8; bit++) crc = crc & 0x80000000 ? (crc << 1) ^ 0x04c11db7 : crc << 1;
  }
  return crc >>> 0;
}

function boot(chip) {
  const stage = chip.flash.slice(0, BOOT2_SIZE);
  const crc = new DataView(stage.buffer).getUint32(BOOT2_SIZE - 4, true);
  if (crcOfRom(stage.subarray(0, BOOT2_SIZE - 4)) !== crc) throw new Error('the ROM would refuse the second boot stage');
  chip.sram.set(stage, BOOT2_AT - RAM.start);
  chip.core.PC = BOOT2_AT;
}

function readScript() {
  const lines = readFileSync(0, 'utf8').split('\n').filter((line) => line !== '');
  return lines.map((line) => JSON.parse(line)).sort((a, b) => a.at_us - b.at_us);
}

// A core that sleeps with its interrupts masked must wake up and go on, and take the interrupt when it unmasks them. The
// emulator takes it at once and with the mask still set, so that no more urgent one can come in between.
function sleepAsTheRealCore(core) {
  const takeInterrupt = core.checkForInterrupts.bind(core);
  core.checkForInterrupts = () => !(core.waiting && core.PM) && takeInterrupt();
}

class WatchdogReset extends Error {}

class Line {
  // Sends bytes to the UART one after the other at its baud rate.
  constructor(uart) {
    this.uart = uart;
    this.waiting = []; // each with the time at which it has arrived
    this.lastAt = 0;
    this.overruns = 0;
  }

  send(bytes, from) {
    this.lastAt = Math.max(from, this.lastAt);
    for (const byte of bytes) {
      this.lastAt += this.byteTime;
      this.waiting.push({ byte, at: this.lastAt });
    }
  }

  get nextAt() {
    return this.waiting.length > 0 ? this.waiting[0].at : Infinity;
  }

  get byteTime() {
    return (1e9 * BITS_PER_BYTE) / this.uart.baudRate;
  }

  run(now) {
    while (this.nextAt <= now) {
      if (this.uart.rxFIFO.full) this.overruns++;
      this.uart.feedByte(this.waiting.shift().byte);
    }
  }
}

class Figures {
  // What the image needed: the longest servo interrupt without what interrupted it, and the deepest stack.
  constructor(core) {
    this.core = core;
    this.servoCycles = 0;
    this.worstServoCycles = 0;
    this.deepestStack = Infinity;
  }

  count(cycles) {
    const { IPSR, SP } = this.core;
    if (SP >= RAM.start && SP < this.deepestStack) this.deepestStack = SP;
    if (IPSR === EXCEPTION.servo) {
      this.servoCycles += cycles;
    } else if (IPSR !== EXCEPTION.uart && IPSR !== EXCEPTION.bus && this.servoCycles > 0) {
      this.worstServoCycles = Math.max(this.worstServoCycles, this.servoCycles);
      this.servoCycles = 0;
    }
  }
}

class Board {
  constructor(path) {
    this.chip = new RP2040();
    this.chip.logger = new ConsoleLogger(LogLevel.Error, true);
    this.chip.reset(); // erases the flash, too
    loadUf2(path, this.chip.flash);
    sleepAsTheRealCore(this.chip.core);
    boot(this.chip);
    this.line = new Line(this.chip.uart[0]);
    this.busLine = new Line(this.chip.uart[1]);
    this.servos = null;
    this.figures = new Figures(this.chip.core);
    this.sent = [];
    this.bus = [];
    this.hang = null;
    this.chip.uart[0].onByte = (byte) => this.sent.push(byte);
    this.chip.uart[1].onByte = (byte) => {
      this.bus.push(byte);
      this.servos?.take(byte, this.chip.clock.nanos);
    };
    this.chip.gpio[ESTOP_PIN].setInputValue(false);
    this.chip.peripherals[WATCHDOG].onWatchdogTrigger = () => {
      throw new WatchdogReset(); // out of the emulator's alarm, which would ring again at once
    };
  }

  happen({ bytes, estop, hang, servos, registers, unplug }) {
    if (bytes !== undefined) this.line.send(Buffer.from(bytes, 'hex'), this.chip.clock.nanos);
    if (estop !== undefined) this.chip.gpio[ESTOP_PIN].setInputValue(estop);
    if (hang !== undefined) this.hang = EXCEPTION[hang];
    if (servos !== undefined) this.servos = new Servos(this.busLine, servos);
    if (registers !== undefined) this.servos.write(registers);
    if (unplug !== undefined) this.servos.unplug(unplug);
  }

  spin() {
    const { core, sramView } = this.chip;
    sramView.setUint16(SPIN.at - RAM.start, SPIN.instruction, true);
    core.PC = SPIN.at;
    core.waiting = false;
    core.PM = false;
    this.hang = null;
  }

  step(until) {
    const { core, clock } = this.chip;
    if (this.hang === core.IPSR) this.spin();
    if ((core.pendingInterrupts & core.enabledInterrupts) !== 0) core.waiting = false;
    if (core.waiting) {
      const alarm = clock.nanos + (clock.nextAlarm === null ? Infinity : clock.nanosToNextAlarm);
      const next = Math.min(alarm, this.line.nextAt, this.busLine.nextAt, until);
      clock.tick(Math.max(next - clock.nanos, CYCLE_NS));
    } else {
      const cycles = core.executeInstruction();
      clock.tick(cycles * CYCLE_NS);
      this.figures.count(cycles);
    }
  }

  // Returns the milliseconds after which the watchdog reset the board, or null.
  run(script, seconds) {
    const { clock } = this.chip;
    const end = seconds * 1e9;
    try {
      while (clock.nanos < end) {
        while (script.length > 0 && script[0].at_us * 1000 <= clock.nanos) this.happen(script.shift());
        this.line.run(clock.nanos);
        this.busLine.run(clock.nanos);
        this.step(script.length > 0 ? Math.min(script[0].at_us * 1000, end) : end);
      }
    } catch (error) {
      if (error instanceof WatchdogReset) return clock.nanos / 1e6;
      throw error;
    }
    return null;
  }
}

const [path, seconds] = process.argv.slice(2);
const board = new Board(path);
const watchdogMs = board.run(readScript(), Number(seconds));
writeSync(1, Uint8Array.from(board.sent));
const report = {
  overruns: board.line.overruns,
  worst_servo_cycles: board.figures.worstServoCycles,
  deepest_stack: board.chip.flashView.getUint32(BOOT2_SIZE, true) - board.figures.deepestStack,
  baud: board.chip.uart[0].baudRate,
  watchdog_ms: watchdogMs,
  bus: Buffer.from(board.bus).toString('hex'),
  bus_baud: board.chip.uart[1].baudRate,
  bus_overruns: board.busLine.overruns,
  bus_collisions: board.servos?.collisions ?? 0,
  bus_answers: board.servos?.answered ?? 0,
  pwm: Array.from({ length: PWM_SLICES }, (_, slice) => board.chip.pwm.readUint32(PWM_COMPARE + PWM_STRIDE * slice)),
};
writeSync(2, `${JSON.stringify(report)}\n`);
