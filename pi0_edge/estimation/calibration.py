"""An estimate that one measurement on the device corrects: each stage takes as many times longer as it was measured to.

    ratio of a stage = measured / expected        calibrated = ratio * expected, of another scheme or number of cameras

A ratio says how far the device is from the rates in `devices.yaml`, all causes together: power mode, clocks, memory,
launches. It does not tell arithmetic from memory. Another scheme or size moves a stage from one to the other, so that
the truth lies between what the smallest and the largest ratio make of the whole chunk: that is the range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pi0_edge.errors import ConfigError
from pi0_edge.estimation.chunk import ChunkEstimate


@dataclass(frozen=True)
class Calibration:
    """How many times longer than expected each stage took on a device.

    Attributes:
        ratios: Stage -> measured over expected, for each stage that was expected.
        shared: Stages that were not measured apart, and have one ratio in common.
    """

    ratios: Mapping[str, float]
    shared: tuple[str, ...]

    def of(self, estimate: ChunkEstimate) -> CalibratedEstimate:
        """Another estimate for the same device, corrected.

        A stage that was not among those measured, such as the state token of another network, has the ratio of all.
        """
        expected = estimate.stages_ms
        mean = sum(self.ratios.values()) / len(self.ratios)
        stages = {name: value * self.ratios.get(name, mean) for name, value in expected.items()}
        total, ratios = sum(expected.values()), self.ratios.values()
        spread = None if len(set(ratios)) < 2 else (min(ratios) * total, max(ratios) * total)
        return CalibratedEstimate(stages, spread)


@dataclass(frozen=True)
class CalibratedEstimate:
    """What a chunk will take on a device that was measured.

    Attributes:
        stages_ms: Stage -> milliseconds, launches among them.
        range_ms: Of the chunk; None where the stages were not measured apart, so that it is not known.
    """

    stages_ms: Mapping[str, float]
    range_ms: tuple[float, float] | None

    @property
    def expected_ms(self) -> float:
        """Of the chunk."""
        return sum(self.stages_ms.values())


def calibrate(expected_ms: Mapping[str, float], measured_ms: Mapping[str, float], network_ms: float) -> Calibration:
    """The ratios of one measurement.

    Args:
        expected_ms: Stage of the network -> estimate of what was measured, on the same device.
        measured_ms: Stage -> what was measured; stages that were not measured apart are missing.
        network_ms: What all stages of the network together were measured to take.

    Raises:
        ConfigError: If there is nothing to divide by, or the stages took longer than all of them together.
    """
    if not expected_ms or min(expected_ms.values()) <= 0:
        raise ConfigError(f"the estimate is {dict(expected_ms)}, expected milliseconds above 0 for each stage")
    ratios = {name: measured_ms[name] / expected for name, expected in expected_ms.items() if name in measured_ms}
    shared = tuple(name for name in expected_ms if name not in ratios)
    if shared:
        rest_ms = network_ms - sum(measured_ms[name] for name in ratios)
        if rest_ms <= 0:
            raise ConfigError(
                f"{', '.join(ratios)} took {network_ms - rest_ms:.4g} ms, and the network {network_ms:.4g} ms; "
                f"expected time for {', '.join(shared)}"
            )
        ratios |= dict.fromkeys(shared, rest_ms / sum(expected_ms[name] for name in shared))
    return Calibration({name: ratios[name] for name in expected_ms}, shared)
