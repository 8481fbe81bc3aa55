"""What Dynamixel and Feetech servos have in common: registers, encoder, power, temperature."""

import abc
import math
from collections.abc import Callable

from firmware_bridge.emulator.servo_bus.joint import COUNT, Joint, Motor
from firmware_bridge.emulator.servo_bus.models import COUNTS
from firmware_bridge.emulator.servo_bus.registers import RegisterTable, value_of
from firmware_bridge.emulator.servo_bus.settings import ServoSettings

AMBIENT_CELSIUS = 25.0
BOOT_S = 0.2
"""From power or reboot until it answers; chosen."""

_RESET_SHARE = 0.6  # of the factory's lower voltage limit, below which the processor of a servo stops; chosen


class Servo(abc.ABC):
    """One servo on a bus.

    Attributes:
        settings: As it was at the start.
        memory: All registers.
        joint: What it turns.
        motor: Its motor among those of the joint.
        id: The address that it answers to.
        baud: Bits per second that it understands.
        connected: False where its plug is pulled: it hears nothing and says nothing, but keeps its power.
        temperature: In degrees Celsius.
        error: What every answer says; 0 is no error.
    """

    def __init__(self, settings: ServoSettings, table: RegisterTable, joint: Joint, motor: Motor) -> None:
        self.settings = settings
        self.model = settings.servo_model
        self.table = table
        self.joint = joint
        self.motor = motor
        self.memory = table.initial()
        self._kept = b""
        self.id = settings.id
        self.baud = settings.baud
        self.connected = True
        self.temperature = AMBIENT_CELSIUS
        self.error = 0
        self._volts = 0.0
        self._has_power = True
        self._answers_from = -math.inf
        self._base = 0.0  # its angle where the joint is at 0 rad
        self._sign = 1.0  # of counts by rad of the joint
        self._written: dict[str, Callable[[], None]] = {}

    def hears(self, now: float, baud: int | None) -> bool:
        """Whether it takes part in the traffic; `baud` None is any speed."""
        return self.connected and self._has_power and now >= self._answers_from and baud in (None, self.baud)

    def value(self, name: str) -> int:
        """A register by its name."""
        return self.table.get(self.memory, self.table.registers[name])

    def store(self, name: str, value: int) -> None:
        """Sets a register, without further effect."""
        self.table.put(self.memory, self.table.registers[name], value)

    @property
    def angle(self) -> float:
        """Counts over several turns, before the homing offset."""
        return self._base + self._sign * self.joint.output / COUNT

    def lose_turns(self) -> None:
        """The encoder knows one turn; whole turns are only counted."""
        self._base -= COUNTS * math.floor(self.angle / COUNTS)

    @abc.abstractmethod
    def reported(self) -> int:
        """The position that it reports, in counts."""

    @abc.abstractmethod
    def joint_position(self, counts: float) -> float:
        """Where the joint is in rad when the servo reports so many counts."""

    @abc.abstractmethod
    def refresh(self, now: float, address: int, end: int) -> None:
        """Brings what it measures up to date in registers from `address` to before `end`."""

    @property
    @abc.abstractmethod
    def return_delay_s(self) -> float:
        """Between an instruction and the answer."""

    @abc.abstractmethod
    def protect(self, now: float, seconds: float, heard_at: float) -> None:
        """Looks after itself every few milliseconds: limits of temperature, voltage and load.

        Args:
            now: Time.
            seconds: Since the last call.
            heard_at: When the last instruction was on the bus.
        """

    @abc.abstractmethod
    def trip_overload(self) -> None:
        """What an overload of long duration does."""

    @abc.abstractmethod
    def _start(self) -> None:
        """Puts everything that derives from registers in place after these have their initial values."""

    def set_torque(self, on: bool) -> None:
        """Lets the motor drive or not."""
        self.motor.switch(on)
        self.store("torque_enable", int(on))
        self.joint.wake()

    def restart(self, now: float, boot_s: float = BOOT_S) -> None:
        """Starts as after power-on: what is not kept has its initial value, torque is off, whole turns are lost."""
        self.memory[:] = self.table.initial()
        self.memory[: self.table.kept] = self._kept
        self._answers_from = now + boot_s
        self.error = 0
        self.set_torque(False)
        self.lose_turns()
        self._start()

    def power(self, now: float, volts: float) -> bool:
        """Takes the voltage at its plug; returns whether this starts it."""
        self._volts = volts
        has_power = volts >= _RESET_SHARE * self.model.lowest_volts
        starts = has_power and not self._has_power
        if starts:
            self.restart(now)
        elif self._has_power and not has_power:
            self.set_torque(False)
        self._has_power = has_power
        return starts

    def warm(self, seconds: float) -> None:
        """Takes in the heat of the winding, and loses some to the air."""
        heat = self.motor.heat * self.model.resistance
        self.motor.heat = 0.0
        lost = (self.temperature - AMBIENT_CELSIUS) / self.model.thermal_resistance * seconds
        self.temperature += (heat - lost) / self.model.heat_capacity

    def keep_registers(self) -> None:
        """What registers below `table.kept` hold now survives without power."""
        self._kept = bytes(self.memory[: self.table.kept])

    def _put_written(self, address: int, data: bytes) -> None:
        """Stores what a host has written to a register, and acts on it."""
        register = self.table.starting_at[address]
        self.table.put(self.memory, register, value_of(register, data))
        if (act := self._written.get(register.name)) is not None:
            act()
