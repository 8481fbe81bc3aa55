"""The servos of arms that are in use: which IDs, which models, where they stand."""

from firmware_bridge.emulator.servo_bus.settings import BusSettings, ServoSettings

_REVERSE = 1
_CURRENT_POSITION = 5
_GRIPPER_CURRENT = 200  # units of 2.69 mA, as Interbotix sets it
_ALOHA_LIMITS = {2: (841, 2867), 3: (841, 2867), 4: (898, 3094), 5: (898, 3094), 7: (830, 3504)}
_MAIN_OF_SHADOW = {3: 2, 5: 4}
_REVERSED = (2, 4, 7)
_SMALL = (8, 9)
_GRIPPER = 9


def aloha_bus(name: str, **settings: object) -> BusSettings:
    """One ViperX 300 follower: nine servos, of which 3 and 5 are shadows of 2 and 4, as Interbotix configures them.

    Args:
        name: Of the bus.
        settings: Further fields of `BusSettings`.
    """
    servos = []
    for number in range(1, 10):
        lowest, highest = _ALOHA_LIMITS.get(number, (0, 4095))
        servos.append(
            ServoSettings(
                id=number,
                model="XM430-W350" if number in _SMALL else "XM540-W270",
                secondary_id=_MAIN_OF_SHADOW.get(number),
                drive_mode=_REVERSE if number in _REVERSED else 0,
                operating_mode=_CURRENT_POSITION if number == _GRIPPER else None,
                current_limit=_GRIPPER_CURRENT if number == _GRIPPER else None,
                lowest=lowest,
                highest=highest,
            )
        )
    return BusSettings(name, tuple(servos), **settings)  # pyright: ignore[reportArgumentType]


def so101_bus(name: str, **settings: object) -> BusSettings:
    """One SO-101 follower: six Feetech servos with the IDs 1 to 6 in the order of its joints.

    Args:
        name: Of the bus.
        settings: Further fields of `BusSettings`.
    """
    servos = tuple(ServoSettings(id=number, model="STS3215") for number in range(1, 7))
    return BusSettings(name, servos, **settings)  # pyright: ignore[reportArgumentType]


ARMS = {
    "aloha": [aloha_bus("left"), aloha_bus("right")],
    "so101": [so101_bus("arm")],
}
"""Buses of whole robots, by name; each bus on a pseudo-terminal."""
