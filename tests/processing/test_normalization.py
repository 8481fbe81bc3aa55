"""Each source's formulas and epsilons, round trips, padding, and statistics files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from processing_builders import DATA, RECORDING

from pi0_edge.errors import ConfigError
from pi0_edge.processing import Mode, Normalization, Normalizer, load_norm_stats, save_norm_stats

DIMS = 5
MODES = [mode for mode in Mode]


def stats_from(center, width):
    low, high = np.asarray(center, float), np.asarray(center, float) + np.asarray(width, float)
    return {"mean": low, "std": high - low, "q01": low, "q99": high, "q10": low, "q90": high, "min": low, "max": high}


finite = st.floats(-100, 100)
vectors = arrays(np.float64, DIMS, elements=finite)
widths = arrays(np.float64, DIMS, elements=st.floats(0.01, 50))


@given(x=arrays(np.float64, (3, DIMS), elements=finite), center=vectors, width=widths, mode=st.sampled_from(MODES))
def test_normalization_round_trip(x, center, width, mode):
    normalizer = Normalizer(mode, stats_from(center, width))
    back = normalizer.inverse(normalizer.forward(x))
    assert back.dtype == np.float64
    # LeRobot's mean/std divides by std + eps but multiplies by std alone.
    slack = 1e-8 / width if mode is Mode.LEROBOT_MEAN_STD else 0.0
    assert np.all(np.abs(back - x) <= 1e-9 + np.abs(x - center) * slack)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (Mode.OPENPI_ZSCORE, (3.0 - 1.0) / (0.5 + 1e-6)),
        (Mode.OPENPI_QUANTILE, (3.0 - 1.0) / (0.5 + 1e-6) * 2.0 - 1.0),
        (Mode.LEROBOT_MEAN_STD, (3.0 - 1.0) / (0.5 + 1e-8)),
        (Mode.LEROBOT_QUANTILES, 2.0 * (3.0 - 1.0) / 0.5 - 1.0),
        (Mode.LEROBOT_QUANTILE10, 2.0 * (3.0 - 1.0) / 0.5 - 1.0),
        (Mode.LEROBOT_MIN_MAX, 2.0 * (3.0 - 1.0) / 0.5 - 1.0),
        (Mode.IDENTITY, 3.0),
    ],
)
def test_normalization_formulas(mode, expected):
    assert Normalizer(mode, stats_from([1.0], [0.5])).forward([3.0])[0] == expected


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (Mode.OPENPI_ZSCORE, 3.0 * (0.5 + 1e-6) + 1.0),
        (Mode.OPENPI_QUANTILE, (3.0 + 1.0) / 2.0 * (0.5 + 1e-6) + 1.0),
        (Mode.LEROBOT_MEAN_STD, 3.0 * 0.5 + 1.0),
        (Mode.LEROBOT_QUANTILES, (3.0 + 1.0) * 0.5 / 2.0 + 1.0),
    ],
)
def test_denormalization_formulas(mode, expected):
    assert Normalizer(mode, stats_from([1.0], [0.5])).inverse([3.0])[0] == expected


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode is not Mode.IDENTITY])
def test_a_joint_that_never_moves_stays_finite(mode):
    normalizer = Normalizer(mode, stats_from([0.25], [0.0]))
    assert np.isfinite(normalizer.forward([0.25])).all()
    assert normalizer.inverse(normalizer.forward([0.25]))[0] == pytest.approx(0.25)


def test_padding_as_openpi_treats_it():
    wide = np.arange(6.0)
    z_score = Normalizer(Mode.OPENPI_ZSCORE, stats_from([1.0, 2.0], [3.0, 4.0]))
    np.testing.assert_array_equal(z_score.inverse(wide)[2:], wide[2:] * (1.0 + 1e-6))
    quantile = Normalizer(Mode.OPENPI_QUANTILE, stats_from([1.0, 2.0], [3.0, 4.0]))
    np.testing.assert_array_equal(quantile.inverse(wide)[2:], wide[2:])
    np.testing.assert_array_equal(quantile.forward([1.0]), [-1.0])  # statistics longer than the data are cut
    with pytest.raises(ConfigError, match=r"3 values do not fit statistics of 2"):
        quantile.forward([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("stats", "message"),
    [
        ({"mean": np.zeros(2)}, r"openpi_zscore needs std, found only \['mean'\]"),
        ({"mean": np.zeros(2), "std": np.array([1.0, np.nan])}, r"std must be a list of finite numbers"),
        ({"mean": np.zeros(2), "std": np.ones(3)}, r"mean and std have different lengths"),
        ({"mean": np.zeros(2), "std": np.array([1.0, -1.0])}, r"a width is negative"),
    ],
)
def test_impossible_statistics_are_refused(stats, message):
    with pytest.raises(ConfigError, match=message):
        Normalizer(Mode.OPENPI_ZSCORE, stats)


def test_golden_norm_stats_normalize_a_standard_normal():
    stats = load_norm_stats(DATA / "preproc" / "norm_stats.json")
    assert stats["state"]["mean"].tolist() == [-0.024324302458753715, 0.06664199225884336, 0.006917636129713552]
    x = np.array([0.5, -1.5, 2.0])
    z_score = Normalization.of_openpi(stats, "pi0").state.forward(x)
    np.testing.assert_array_equal(z_score, (x - stats["state"]["mean"]) / (stats["state"]["std"] + 1e-6))
    quantile = Normalization.of_openpi(stats, "pi05").actions
    np.testing.assert_allclose(quantile.forward(stats["actions"]["q01"]), -1.0)
    np.testing.assert_allclose(quantile.forward(stats["actions"]["q99"]), 1.0, atol=1e-6)


def test_norm_stats_of_a_real_recording():
    normalization = Normalization.of_openpi(load_norm_stats(RECORDING), "pi05")
    assert (normalization.state.dims, normalization.actions.dims) == (26, 26)
    stats = normalization.state.stats
    assert np.all(np.abs(normalization.state.forward(stats["mean"])) <= 1.0), "the mean lies between the quantiles"


def test_norm_stats_are_found_by_asset_id(tmp_path):
    stats = load_norm_stats(DATA / "preproc" / "norm_stats.json")
    nested = tmp_path / "assets" / "physical-intelligence" / "libero"
    nested.mkdir(parents=True)
    save_norm_stats(nested / "norm_stats.json", stats)
    assert load_norm_stats(tmp_path)["state"]["q99"].tolist() == stats["state"]["q99"].tolist()
    (tmp_path / "assets" / "trossen").mkdir()
    save_norm_stats(
        tmp_path / "assets" / "trossen" / "norm_stats.json", {**stats, "state": {"mean": [7.0], "std": [1.0]}}
    )
    with pytest.raises(
        ConfigError, match=r"statistics for \['physical-intelligence/libero', 'trossen'\], asked for None"
    ):
        load_norm_stats(tmp_path)
    assert load_norm_stats(tmp_path, "trossen")["state"]["mean"] == [7.0]
    with pytest.raises(ConfigError, match=r"asked for droid"):
        load_norm_stats(tmp_path, "droid")


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"norm_stats": {"state": {}}}', '{"norm_stats": {"state": 1, "actions": 2}}', "{"]
)
def test_files_of_another_format(tmp_path, content):
    path = tmp_path / "norm_stats.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"norm_stats.json is not in openpi's format"):
        load_norm_stats(path)


def test_missing_quantiles_matter_only_where_they_are_needed(tmp_path):
    field = {"mean": [0.0], "std": [1.0], "q01": None, "q99": None}
    path = tmp_path / "norm_stats.json"
    path.write_text(json.dumps({"norm_stats": {"state": field, "actions": field}}))
    stats = load_norm_stats(path)
    assert Normalization.of_openpi(stats, "pi0").state.dims == 1
    with pytest.raises(ConfigError, match=r"openpi_quantile needs q01"):
        Normalization.of_openpi(stats, "pi05")
