"""Normalization of states and actions, in float64, with each source's own formulas.

    ====================  ================================================  ============================================
    mode                  forward                                           inverse
    ====================  ================================================  ============================================
    openpi_zscore         (x - mean) / (std + 1e-6)                         y * (std + 1e-6) + mean
    openpi_quantile       (x - q01) / (q99 - q01 + 1e-6) * 2 - 1            (y + 1) / 2 * (q99 - q01 + 1e-6) + q01
    lerobot_mean_std      (x - mean) / (std + eps)                          y * std + mean
    lerobot_quantiles     (x - q01) / (q99 - q01) * 2 - 1                   (y + 1) / 2 * (q99 - q01) + q01
    lerobot_quantile10    the same with q10 and q90                         the same with q10 and q90
    lerobot_min_max       the same with min and max                         the same with min and max
    identity              x                                                 y
    ====================  ================================================  ============================================

LeRobot replaces a range of exactly 0 by eps (1e-8). Statistics longer than the data are cut. Forward, data longer than
its statistics is an error; inverse, the dimensions beyond them (the padding) pass as openpi lets them pass: unchanged,
except that openpi's z-score scales them by its 1 + 1e-6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pi0_edge.errors import ConfigError

Array = NDArray[np.float64]
OPENPI_EPS = 1e-6
LEROBOT_EPS = 1e-8

STILL = (1e-5, 1e-6)
"""A dimension whose width is at most the first (finer than any encoder of a joint), plus the second times its centre
(what float32 rounds off), did not move in training."""


class Mode(str, Enum):
    """Whose formula, see the table above."""

    OPENPI_ZSCORE = "openpi_zscore"
    OPENPI_QUANTILE = "openpi_quantile"
    LEROBOT_MEAN_STD = "lerobot_mean_std"
    LEROBOT_QUANTILES = "lerobot_quantiles"
    LEROBOT_QUANTILE10 = "lerobot_quantile10"
    LEROBOT_MIN_MAX = "lerobot_min_max"
    IDENTITY = "identity"


_ZSCORES = (Mode.OPENPI_ZSCORE, Mode.LEROBOT_MEAN_STD)
_RANGES = {
    Mode.OPENPI_QUANTILE: ("q01", "q99"),
    Mode.LEROBOT_QUANTILES: ("q01", "q99"),
    Mode.LEROBOT_QUANTILE10: ("q10", "q90"),
    Mode.LEROBOT_MIN_MAX: ("min", "max"),
}


@dataclass(frozen=True)
class Normalizer:
    """One field (state or actions) between physical and normalized values.

    Attributes:
        mode: The formula.
        stats: Statistics by name, each float64 [dims].
        eps: LeRobot's configurable epsilon; openpi's is fixed.

    Raises:
        ConfigError: If a statistic that the mode needs is absent, of another length, not finite or negative.
    """

    mode: Mode
    stats: Mapping[str, Array] = field(default_factory=dict)
    eps: float = LEROBOT_EPS

    def __post_init__(self) -> None:
        needed = ("mean", "std") if self.mode in _ZSCORES else _RANGES.get(self.mode, ())
        for name in needed:
            if name not in self.stats:
                raise ConfigError(f"normalization {self.mode.value} needs {name}, found only {sorted(self.stats)}")
            if not np.all(np.isfinite(self.stats[name])) or self.stats[name].ndim != 1:
                raise ConfigError(f"the statistic {name} must be a list of finite numbers, found {self.stats[name]}")
        if needed and len(self.stats[needed[0]]) != len(self.stats[needed[1]]):
            raise ConfigError(f"the statistics {needed[0]} and {needed[1]} have different lengths")
        if needed and np.any(self._width() < 0):
            raise ConfigError(f"normalization {self.mode.value}: a width is negative in {self._width()}; expected >= 0")

    @property
    def dims(self) -> int | None:
        """Number of dimensions the statistics cover; None for the identity."""
        return None if self.mode is Mode.IDENTITY else len(self._center())

    @property
    def is_z_score(self) -> bool:
        """Whether it divides by a standard deviation, not by a range."""
        return self.mode in _ZSCORES

    @property
    def normalized_centre(self) -> float:
        """What `forward` makes of the mean, or of the lower end of a range: the place of a joint that did not move."""
        return 0.0 if self.is_z_score else -1.0

    @property
    def still(self) -> NDArray[np.bool_]:
        """Which dimensions did not move in training, bool [dims]; none for the identity."""
        if self.mode is Mode.IDENTITY:
            return np.zeros(0, np.bool_)
        return self._width() <= STILL[0] + STILL[1] * np.abs(self._center())

    def forward(self, x: ArrayLike) -> Array:
        """Physical -> normalized, [..., dims].

        Raises:
            ConfigError: If there are more dimensions than statistics.
        """
        x = np.asarray(x, np.float64)
        if self.dims is None:
            return x
        if x.shape[-1] > self.dims:
            raise ConfigError(f"{x.shape[-1]} values do not fit statistics of {self.dims}; give those of this robot")
        dims = x.shape[-1]
        scaled = (x - self._center()[:dims]) / self._divisor()[:dims]
        return scaled if self.mode in _ZSCORES else scaled * 2.0 - 1.0

    def preimage(self, y: ArrayLike) -> Array:
        """The physical values that `forward` turns into `y`, [..., dims]; at most as many dims as the statistics have.

        Not the same as `inverse`: LeRobot's mean/std leaves its eps out there.
        """
        y = np.asarray(y, np.float64)
        if self.dims is None:
            return y
        dims = y.shape[-1]
        scaled = y if self.mode in _ZSCORES else (y + 1.0) / 2.0
        return scaled * self._divisor()[:dims] + self._center()[:dims]

    def inverse(self, y: ArrayLike) -> Array:
        """Normalized -> physical, [..., dims]."""
        y = np.asarray(y, np.float64)
        if self.dims is None:
            return y
        dims = min(y.shape[-1], self.dims)
        scaled = y[..., :dims] if self.mode in _ZSCORES else (y[..., :dims] + 1.0) / 2.0
        padding = y[..., dims:] * (1.0 + OPENPI_EPS) if self.mode is Mode.OPENPI_ZSCORE else y[..., dims:]
        return np.concatenate((scaled * self._factor()[:dims] + self._center()[:dims], padding), axis=-1)

    def _center(self) -> Array:
        return self.stats["mean" if self.mode in _ZSCORES else _RANGES[self.mode][0]]

    def _width(self) -> Array:
        if self.mode in _ZSCORES:
            return self.stats["std"]
        low, high = _RANGES[self.mode]
        return self.stats[high] - self.stats[low]

    def _factor(self) -> Array:
        """What the inverse multiplies with."""
        if self.mode in (Mode.OPENPI_ZSCORE, Mode.OPENPI_QUANTILE):
            return self._width() + OPENPI_EPS
        if self.mode is Mode.LEROBOT_MEAN_STD:
            return self._width()
        return np.where(self._width() == 0.0, self.eps, self._width())

    def _divisor(self) -> Array:
        """What the forward direction divides by: the same, but for LeRobot's mean/std."""
        return self._width() + self.eps if self.mode is Mode.LEROBOT_MEAN_STD else self._factor()


@dataclass(frozen=True)
class Normalization:
    """The normalizers of a policy."""

    state: Normalizer
    actions: Normalizer

    @staticmethod
    def of_openpi(stats: Mapping[str, Mapping[str, Array]], variant: str) -> Normalization:
        """From openpi statistics: z-score for π0, quantiles for π0.5."""
        mode = Mode.OPENPI_ZSCORE if variant == "pi0" else Mode.OPENPI_QUANTILE
        return Normalization(Normalizer(mode, stats["state"]), Normalizer(mode, stats["actions"]))
