// Servos on a half-duplex bus: they execute sync writes and answer sync reads from their registers, each byte at the
// time at which the wire would carry it. A servo with torque is at its goal at once.
const START = { dynamixel: [0xff, 0xff, 0xfd, 0x00], feetech: [0xff, 0xff] };
const BROADCAST = 0xfe;
const SYNC_READ = 0x82;
const FAST_SYNC_READ = 0x8a;
const SYNC_WRITE = 0x83;
const STATUS = 0x55;
const PLACES = {
  dynamixel: { torque: 64, goal: 116, position: 132, size: 4 },
  feetech: { torque: 40, goal: 42, position: 56, size: 2 },
};

function crc16(bytes) {
  let crc = 0;
  for (const byte of bytes) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? ((crc << 1) ^ 0x8005) & 0xffff : crc << 1;
  }
  return crc;
}

const word = (value) => [value & 0xff, value >> 8];

function withCrc(bytes) {
  return [...bytes, ...word(crc16(bytes))];
}

// Behind FF FF FD, from the instruction on, the protocol puts another FD.
function stuffed(bytes) {
  const out = [];
  for (const byte of bytes) {
    out.push(byte);
    const end = out.slice(-3);
    if (end[0] === 0xff && end[1] === 0xff && end[2] === 0xfd) out.push(0xfd);
  }
  return out;
}

const DYNAMIXEL = {
  // The packet at the begin of `bytes`: its size, or null while it is incomplete.
  packet(bytes) {
    if (bytes.length < 7 || bytes.length < 7 + bytes[5] + 256 * bytes[6]) return null;
    const size = 7 + bytes[5] + 256 * bytes[6];
    const crc = bytes[size - 2] + 256 * bytes[size - 1];
    if (crc16(bytes.slice(0, size - 2)) !== crc) throw new Error('the image sent a wrong CRC');
    const parameters = bytes.slice(8, size - 2);
    const [address, length] = [parameters[0] + 256 * parameters[1], parameters[2] + 256 * parameters[3]];
    return { size, instruction: bytes[7], address, length, rest: parameters.slice(4) };
  },

  answers(instruction, asked) {
    if (instruction === FAST_SYNC_READ) return [this.together(asked)];
    return asked.map(({ id, data }) => {
      const content = stuffed([STATUS, 0, ...data]);
      return withCrc([...START.dynamixel, id, ...word(content.length + 2), ...content]);
    });
  },

  together(asked) {
    const length = 1 + asked.reduce((sum, { data }) => sum + data.length + 4, 0);
    return asked.reduce(
      (packet, { id, data }) => withCrc([...packet, 0, id, ...data]),
      [...START.dynamixel, BROADCAST, ...word(length), STATUS],
    );
  },
};

const FEETECH = {
  packet(bytes) {
    if (bytes.length < 4 || bytes.length < 4 + bytes[3]) return null;
    const size = 4 + bytes[3];
    const sum = bytes.slice(2, size - 1).reduce((total, byte) => total + byte, 0);
    if ((~sum & 0xff) !== bytes[size - 1]) throw new Error('the image sent a wrong checksum');
    return { size, instruction: bytes[4], address: bytes[5], length: bytes[6], rest: bytes.slice(7, size - 1) };
  },

  answers(_, asked) {
    return asked.map(({ id, data }) => {
      const content = [id, data.length + 2, 0, ...data];
      return [...START.feetech, ...content, ~content.reduce((total, byte) => total + byte, 0) & 0xff];
    });
  },
};

export class Servos {
  // `line` carries what the servos send. `registers` are {id: {address: hex}}; `shadows`, {id: other id}, execute the
  // commands to the other. `delay_us` passes before each answer; with `echo` the image hears itself.
  constructor(line, { protocol, registers, shadows = {}, delay_us = 0, echo = false }) {
    this.line = line;
    this.protocol = { dynamixel: DYNAMIXEL, feetech: FEETECH }[protocol];
    this.places = PLACES[protocol];
    this.servos = new Map(Object.keys(registers).map((id) => [Number(id), new Uint8Array(256)]));
    this.shadows = Object.entries(shadows).map(([id, of]) => [Number(id), of]);
    this.delayNs = delay_us * 1000;
    this.echo = echo;
    this.received = [];
    this.busyUntil = 0; // with bytes of the image
    this.answeringUntil = 0;
    this.collisions = 0;
    this.answered = 0;
    this.write(registers);
  }

  write(registers) {
    for (const [id, blocks] of Object.entries(registers)) {
      const servo = this.servos.get(Number(id));
      for (const [address, hex] of Object.entries(blocks)) servo.set(Buffer.from(hex, 'hex'), Number(address));
    }
  }

  unplug(ids) {
    for (const id of ids) this.servos.delete(id);
  }

  // Takes a byte that the image hands to its UART now; the wire carries it after those before.
  take(byte, now) {
    if (this.answeringUntil > now) this.collisions++;
    this.busyUntil = Math.max(now, this.busyUntil) + this.line.byteTime;
    if (this.echo) this.line.send([byte], this.busyUntil - this.line.byteTime);
    this.received.push(byte);
    const packet = this.protocol.packet(this.received);
    if (packet === null) return;
    this.received.splice(0, packet.size);
    this.execute(packet);
  }

  execute({ instruction, address, length, rest }) {
    if (instruction === SYNC_WRITE) {
      for (let at = 0; at < rest.length; at += 1 + length) {
        this.command(rest[at], address, rest.slice(at + 1, at + 1 + length));
      }
    } else if (instruction === SYNC_READ || instruction === FAST_SYNC_READ) {
      const present = rest.filter((id) => this.servos.has(id));
      const dataOf = (id) => this.servos.get(id).slice(address, address + length);
      this.answer(instruction, present.map((id) => ({ id, data: dataOf(id) })));
    }
  }

  command(id, address, data) {
    const { torque, goal, position, size } = this.places;
    for (const other of [id, ...this.shadows.filter(([, of]) => of === id).map(([shadow]) => shadow)]) {
      const registers = this.servos.get(other);
      if (registers === undefined) continue;
      registers.set(data, address);
      if (registers[torque] === 1) registers.copyWithin(position, goal, goal + size);
    }
  }

  answer(instruction, asked) {
    let from = this.busyUntil;
    for (const packet of this.protocol.answers(instruction, asked)) {
      this.line.send(packet, from + this.delayNs);
      from = this.answeringUntil = this.line.lastAt;
      this.answered++;
    }
  }
}
