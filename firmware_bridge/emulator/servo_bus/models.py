"""The models of servos that can be emulated: what the data sheets say, and what had to be chosen.

From data sheets: model number, stall torque and current, no-load speed (all at the nominal voltage), limits of voltage
and temperature, units and factory values. Sources: the control tables and specifications of the vendor's e-manual for
Dynamixel, the data sheet of the STS3215 (12 V) for Feetech. Backlash is the data sheet's for Dynamixel (15 arc minutes)
and measured by others for the STS3215 (0.8 to 0.9 degrees, where the data sheet says 0.5 or less).

Derived, at the output shaft:
    torque constant  = stall torque / stall current
    resistance       = nominal voltage / stall current
    friction         = `_FRICTION_SHARE` of the stall torque
    voltage constant = (nominal voltage - resistance * friction / torque constant) / no-load speed
The voltage constant is larger than the torque constant, because the gears lose torque, not speed.

Chosen, as no data sheet states them: the share of friction, the inertia, and the thermal values. The latter fit a
published measurement of the STS3215 (half the stall torque held: 48 degrees Celsius after 10 minutes, then constant),
scaled with the mass of the servo.
"""

import math
from dataclasses import dataclass

COUNTS = 4096
"""Of one turn."""

DYNAMIXEL = "dynamixel"
FEETECH = "feetech"
PROTOCOLS = (DYNAMIXEL, FEETECH)

_FRICTION_SHARE = 0.04
_RPM = 2.0 * math.pi / 60.0


@dataclass(frozen=True)
class ServoModel:
    """One model of servo.

    Attributes:
        name: The vendor's name.
        protocol: `dynamixel` or `feetech`.
        number: What its model number register says.
        volts: Nominal supply voltage, at which the next three hold.
        stall_torque: In N·m.
        stall_amperes: At stall.
        no_load_speed: In rad/s.
        backlash: Between the gears and the output shaft, in rad.
        lowest_volts: Factory value of the lower voltage limit.
        highest_volts: Factory value of the upper voltage limit.
        hottest: Factory value of the temperature limit, in degrees Celsius.
        ampere_unit: Ampere in one unit of its registers of current; 0 where it reports a load and no current.
        current_limit: Factory value of its limit of current, in these units.
        position_gain: Factory value of its proportional gain of position.
        firmware: Version that it has unless a setting says otherwise.
        fast_sync_read: First firmware version that answers a fast sync read; 0 where none does.
        inertia: Of gears and a typical load, at the output, in kg·m².
        heat_capacity: In J/K.
        thermal_resistance: From winding to air, in K/W.
    """

    name: str
    protocol: str
    number: int
    volts: float
    stall_torque: float
    stall_amperes: float
    no_load_speed: float
    backlash: float
    lowest_volts: float
    highest_volts: float
    hottest: int
    ampere_unit: float
    current_limit: int
    position_gain: int
    firmware: int
    fast_sync_read: int
    inertia: float
    heat_capacity: float
    thermal_resistance: float

    @property
    def torque_constant(self) -> float:
        """N·m per ampere at the output."""
        return self.stall_torque / self.stall_amperes

    @property
    def resistance(self) -> float:
        """Ohm."""
        return self.volts / self.stall_amperes

    @property
    def friction(self) -> float:
        """Torque that moves the output of an unloaded servo, in N·m."""
        return _FRICTION_SHARE * self.stall_torque

    @property
    def voltage_constant(self) -> float:
        """Volt per rad/s of the output."""
        return (self.volts - self.resistance * self.friction / self.torque_constant) / self.no_load_speed


MODELS = {
    model.name: model
    for model in (
        ServoModel(
            name="XM540-W270",
            protocol=DYNAMIXEL,
            number=1120,
            volts=12.0,
            stall_torque=10.6,
            stall_amperes=4.4,
            no_load_speed=30 * _RPM,
            backlash=math.radians(0.25),
            lowest_volts=9.5,
            highest_volts=16.0,
            hottest=80,
            ampere_unit=2.69e-3,
            current_limit=2047,
            position_gain=800,
            firmware=47,
            fast_sync_read=45,
            inertia=0.05,
            heat_capacity=150.0,
            thermal_resistance=2.2,
        ),
        ServoModel(
            name="XM430-W350",
            protocol=DYNAMIXEL,
            number=1020,
            volts=12.0,
            stall_torque=4.1,
            stall_amperes=2.3,
            no_load_speed=46 * _RPM,
            backlash=math.radians(0.25),
            lowest_volts=9.5,
            highest_volts=16.0,
            hottest=80,
            ampere_unit=2.69e-3,
            current_limit=1193,
            position_gain=800,
            firmware=47,
            fast_sync_read=45,
            inertia=0.01,
            heat_capacity=75.0,
            thermal_resistance=2.8,
        ),
        ServoModel(
            name="XL430-W250",
            protocol=DYNAMIXEL,
            number=1060,
            volts=12.0,
            stall_torque=1.5,
            stall_amperes=1.4,
            no_load_speed=61 * _RPM,
            backlash=math.radians(0.25),
            lowest_volts=6.0,
            highest_volts=14.0,
            hottest=72,
            ampere_unit=0.0,
            current_limit=0,
            position_gain=800,
            firmware=47,
            fast_sync_read=45,
            inertia=0.005,
            heat_capacity=55.0,
            thermal_resistance=3.0,
        ),
        ServoModel(
            name="XL330-M288",
            protocol=DYNAMIXEL,
            number=1200,
            volts=5.0,
            stall_torque=0.52,
            stall_amperes=1.47,
            no_load_speed=103 * _RPM,
            backlash=math.radians(0.25),
            lowest_volts=3.5,
            highest_volts=7.0,
            hottest=70,
            ampere_unit=1.0e-3,
            current_limit=1750,
            position_gain=400,
            firmware=52,
            fast_sync_read=46,
            inertia=0.001,
            heat_capacity=18.0,
            thermal_resistance=6.0,
        ),
        ServoModel(
            name="STS3215",
            protocol=FEETECH,
            number=777,
            volts=12.0,
            stall_torque=2.94,
            stall_amperes=2.7,
            no_load_speed=45 * _RPM,
            backlash=math.radians(0.85),
            lowest_volts=4.0,
            highest_volts=14.0,
            hottest=70,
            ampere_unit=6.5e-3,
            current_limit=500,
            position_gain=32,
            firmware=10,
            fast_sync_read=0,
            inertia=0.01,
            heat_capacity=70.0,
            thermal_resistance=2.8,
        ),
    )
}
