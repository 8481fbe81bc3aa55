"""Writes `serial_link.h`: structs, enums, constants and inline encoders that touch one byte at a time.

Byte-wise access makes the header independent of alignment, padding and the byte order of the processor.
"""

from __future__ import annotations

from pi0_edge.protos.codegen.schema import CRC_SIZE, SIZES, Message, Schema

C_TYPES = {
    "u8": "uint8_t",
    "u16": "uint16_t",
    "u32": "uint32_t",
    "u64": "uint64_t",
    "i16": "int16_t",
    "f32": "float",
}

PREAMBLE = """/* Messages of the serial link, generated from protos/serial_link.yaml by
 * `python -m pi0_edge.protos.codegen.generate`. Do not edit.
 * link_pack_* return the bytes written, or 0 where the tail is too long; link_unpack_* return false where the sizes
 * disagree. */
#ifndef SERIAL_LINK_H
#define SERIAL_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

"""

SCALARS = """
static inline uint8_t *link_put(uint8_t *out, uint64_t value, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        out[i] = (uint8_t)(value >> (8u * i));
    }
    return out + size;
}

static inline uint64_t link_get(const uint8_t *in, size_t size)
{
    uint64_t value = 0;
    for (size_t i = 0; i < size; i++) {
        value |= (uint64_t)in[i] << (8u * i);
    }
    return value;
}

static inline uint64_t link_bits_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float link_float_of_bits(uint64_t value)
{
    uint32_t bits = (uint32_t)value;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

static inline int16_t link_signed(uint64_t value)
{
    int32_t wide = (int32_t)value;
    return (int16_t)(wide < 0x8000 ? wide : wide - 0x10000);
}
"""


def write_c(schema: Schema) -> str:
    """Return the text of `serial_link.h`."""
    parts = [PREAMBLE, _constants(schema)]
    parts += [_enum(name, {k: str(v) for k, v in values.items()}) for name, values in schema.enums.items()]
    parts += [_enum(name, {k: f"1u << {v}" for k, v in values.items()}) for name, values in schema.bits.items()]
    parts.append(SCALARS)
    parts += [_message(schema, message) for message in (schema.header, *schema.messages)]
    parts.append("\n#endif\n")
    return "".join(parts)


def _constants(schema: Schema) -> str:
    values = {name.upper(): f"{value}u" for name, value in schema.constants.items()}
    values["HEADER_SIZE"] = f"{schema.header.fixed_size}u"
    values["CRC_SIZE"] = f"{CRC_SIZE}u"
    values["MAX_PAYLOAD"] = f"{schema.max_payload}u"
    values["SCHEMA_HASH"] = f"0x{schema.hash:08X}u"
    for message in schema.messages:
        values[f"{message.snake_name.upper()}_ID"] = f"0x{message.id:02X}u"
        if message.tail:
            values[f"{message.snake_name.upper()}_FIXED_SIZE"] = f"{message.fixed_size}u"
            values[f"{message.snake_name.upper()}_CAPACITY"] = f"{schema.tail_capacity(message)}u"
    return "".join(f"#define LINK_{name} {value}\n" for name, value in values.items())


def _upper(name: str) -> str:
    return Message(name, None, (), None).snake_name.upper()


def _enum(name: str, values: dict[str, str]) -> str:
    members = "".join(f"    LINK_{_upper(name)}_{key} = {value},\n" for key, value in values.items())
    return f"\nenum link_{_upper(name).lower()} {{\n{members}}};\n"


def _message(schema: Schema, message: Message) -> str:
    return _struct(schema, message) + _pack(schema, message) + _unpack(schema, message)


def _struct(schema: Schema, message: Message) -> str:
    members = "".join(f"    {C_TYPES[field.type]} {field.name};\n" for field in message.fields)
    if message.tail:
        members += f"    {C_TYPES[message.tail.type]} {message.tail.name}[{schema.tail_capacity(message)}];\n"
    return f"\nstruct link_{message.snake_name} {{\n{members}}};\n"


def _encoded(kind: str, value: str) -> str:
    if kind == "f32":
        return f"link_bits_of_float({value})"
    return f"(uint16_t){value}" if kind == "i16" else value


def _decoded(kind: str, value: str) -> str:
    if kind == "f32":
        return f"link_float_of_bits({value})"
    return f"link_signed({value})" if kind == "i16" else f"({C_TYPES[kind]}){value}"


def _count(message: Message) -> str:
    factors = message.tail.count if message.tail else ()
    return " * ".join(f"(size_t)message->{factor}" for factor in factors)


def _pack(schema: Schema, message: Message) -> str:
    name = message.snake_name
    lines = [f"static inline size_t link_pack_{name}(const struct link_{name} *message, uint8_t *out)", "{"]
    if message.tail:
        lines += [f"    const size_t count = {_count(message)};"]
        lines += [f"    if (count > {schema.tail_capacity(message)}u) {{", "        return 0;", "    }"]
    lines += ["    uint8_t *end = out;"]
    for field in message.fields:
        value = _encoded(field.type, f"message->{field.name}")
        lines.append(f"    end = link_put(end, {value}, {SIZES[field.type]});")
    if message.tail:
        value = _encoded(message.tail.type, f"message->{message.tail.name}[i]")
        lines += ["    for (size_t i = 0; i < count; i++) {"]
        lines += [f"        end = link_put(end, {value}, {SIZES[message.tail.type]});", "    }"]
    lines += ["    return (size_t)(end - out);", "}"]
    return "\n" + "\n".join(lines) + "\n"


def _unpack(schema: Schema, message: Message) -> str:
    name, fixed = message.snake_name, message.fixed_size
    compare = "<" if message.tail else "!="
    lines = [f"static inline bool link_unpack_{name}(struct link_{name} *message, const uint8_t *in, size_t size)"]
    lines += ["{", f"    if (size {compare} {fixed}u) {{", "        return false;", "    }"]
    offset = 0
    for field in message.fields:
        value = _decoded(field.type, f"link_get(in + {offset}, {SIZES[field.type]})")
        lines.append(f"    message->{field.name} = {value};")
        offset += SIZES[field.type]
    lines += _unpack_tail(schema, message) if message.tail else []
    return "\n" + "\n".join([*lines, "    return true;", "}"]) + "\n"


def _unpack_tail(schema: Schema, message: Message) -> list[str]:
    tail, fixed = message.tail, message.fixed_size
    if tail is None:
        return []
    size = SIZES[tail.type]
    value = _decoded(tail.type, f"link_get(in + {fixed}u + {size}u * i, {size})")
    return [
        f"    const size_t count = {_count(message)};",
        f"    if (count > {schema.tail_capacity(message)}u || size != {fixed}u + {size}u * count) {{",
        "        return false;",
        "    }",
        "    for (size_t i = 0; i < count; i++) {",
        f"        message->{tail.name}[i] = {value};",
        "    }",
    ]
