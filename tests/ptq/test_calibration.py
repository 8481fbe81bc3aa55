"""Calibration of a whole network: what it collects is what a plain hook sees, however often it was interrupted."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from policy_builders import CONFIG
from torch import Tensor, nn

from pi0_edge.engine.loading import blank_model, fill_model
from pi0_edge.errors import QuantizationError
from pi0_edge.model import ModelInputs, Pi0, Pi0Config
from pi0_edge.model.flow import euler_times
from pi0_edge.model.precision import apply_bf16_policy
from pi0_edge.ptq.calibration import collect, frame_noise
from pi0_edge.ptq.calibration_file import Calibration, CalibrationSource

FRAMES = 5
TIMES = euler_times(10)
SOURCE = CalibrationSource("npz", "made up", FRAMES, "0" * 64, seed=3, cameras=("top",))


def network(config: Pi0Config = CONFIG) -> Pi0:
    torch.manual_seed(0)
    return Pi0(config).eval()


def samples(count: int = FRAMES) -> list[ModelInputs]:
    """Observations with one or two cameras and prompts of any length."""
    generator = torch.Generator().manual_seed(1)
    size = CONFIG.vision.image_size
    found = []
    for frame in range(count):
        cameras, tokens = 1 + frame % 2, 3 + frame % 4
        found.append(
            ModelInputs(
                images=torch.rand(1, cameras, 3, size, size, generator=generator) * 2 - 1,
                image_mask=torch.ones(1, cameras, dtype=torch.bool),
                tokens=torch.randint(2, CONFIG.vocab_size, (1, tokens), generator=generator),
                token_mask=torch.ones(1, tokens, dtype=torch.bool),
                state=torch.randn(1, CONFIG.action_dim, generator=generator),
            )
        )
    return found


def entered(model: Pi0) -> dict[str, list[Tensor]]:
    """Everything that enters every linear, kept by the plainest hook there is."""
    seen: dict[str, list[Tensor]] = {}

    def keeper(path: str):
        return lambda _, x: seen.setdefault(path, []).append(x[0].flatten(0, -2))

    handles = [
        module.register_forward_pre_hook(keeper(path))
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        for frame, sample in enumerate(samples()):
            model.sample_actions(sample, frame_noise(model.config, SOURCE.seed, frame), TIMES)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_statistics_are_those_of_everything_that_enters(variant):
    model = network(replace(CONFIG, variant=variant))
    calibration = collect(model, samples(), TIMES, SOURCE)
    seen = entered(model)
    assert list(calibration.layers) == list(seen)
    assert {"vision.layers.0.mlp.fc2", "prefix.layers.1.attention.k", "expert.layers.1.mlp.down"} < set(seen)
    for path, layer in calibration.layers.items():
        whole = torch.cat(seen[path])
        assert layer.tokens == len(whole)
        assert torch.equal(layer.channel_amax, whole.abs().amax(0))
        assert layer.amax == whole.abs().max()
        exact = torch.quantile(whole.abs().flatten().double()[: 2**23], 0.999, interpolation="lower").item()
        assert exact <= layer.percentile <= layer.amax


def test_every_euler_step_is_recorded():
    model = network()
    calibration = collect(model, samples(), TIMES, SOURCE)
    chunks = entered(model)["action_in_proj"]  # one per step and frame
    expected = [max(chunks[frame * 10 + step].abs().max() for frame in range(FRAMES)) for step in range(10)]
    steps = calibration.layers["action_in_proj"].step_amax
    assert steps is not None and steps.tolist() == expected
    assert calibration.layers["expert.layers.0.mlp.down"].tokens == FRAMES * (10 * CONFIG.horizon + 1)
    in_loop = {path for path, layer in calibration.layers.items() if layer.step_amax is not None}
    assert {path.split(".")[0] for path in in_loop} == {
        *("expert", "action_in_proj", "action_time_mlp_out", "action_out_proj")
    }


def test_the_same_input_gives_the_same_bytes_and_another_seed_others(tmp_path):
    files = [tmp_path / name for name in ("one", "two", "other")]
    for file, source in zip(files, (SOURCE, SOURCE, replace(SOURCE, seed=4)), strict=True):
        collect(network(), samples(), TIMES, source).save(file)
    one, two, other = (Calibration.load(file) for file in files)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert one.source == two.source == SOURCE
    name = "expert.layers.0.attention.q"
    assert not torch.equal(one.layers[name].channel_amax, other.layers[name].channel_amax)


def test_a_loaded_calibration_equals_the_saved_one(tmp_path):
    calibration = collect(network(), samples(), TIMES, SOURCE)
    calibration.save(tmp_path / "file")
    loaded = Calibration.load(tmp_path / "file")
    assert list(loaded.layers) == list(calibration.layers)
    for found, layer in zip(loaded.layers.values(), calibration.layers.values(), strict=True):
        assert (found.tokens, found.amax, found.percentile) == (layer.tokens, layer.amax, layer.percentile)
        assert torch.equal(found.channel_amax, layer.channel_amax)
        assert (found.step_amax is None) == (layer.step_amax is None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def interrupted(after: int, within_a_frame: bool, model: Pi0) -> Iterator[ModelInputs]:
    """Samples that end in Ctrl-C, between two frames or in the middle of the next one."""
    yield from samples()[:after]
    if not within_a_frame:
        raise KeyboardInterrupt
    handle = model.action_out_proj.register_forward_pre_hook(stop)
    try:
        yield samples()[after]
    finally:
        handle.remove()


def stop(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("within_a_frame", [False, True])
@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupted_run_ends_where_an_unbroken_one_does(tmp_path, after, within_a_frame):
    model, kept = network(), tmp_path / "kept"
    collect(model, samples(), TIMES, SOURCE).save(tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        collect(model, interrupted(after, within_a_frame, model), TIMES, SOURCE, kept)
    assert kept.exists()
    done: list[int] = []
    collect(model, samples(), TIMES, SOURCE, kept, lambda progress: done.append(progress.done)).save(
        tmp_path / "resumed"
    )
    assert done == [0, *range(after + 1, FRAMES + 1)]
    assert not kept.exists()
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "unbroken").read_bytes()


def interrupted_run(kept: Path, count: int = 3) -> None:
    model = network()
    with pytest.raises(KeyboardInterrupt):
        collect(model, interrupted(count, False, model), TIMES, SOURCE, kept)


def test_what_is_kept_does_not_grow_with_the_frames(tmp_path):
    interrupted_run(tmp_path / "after 1", 1)
    interrupted_run(tmp_path / "after 5", 5)
    one, five = ((tmp_path / name).stat().st_size for name in ("after 1", "after 5"))
    assert abs(one - five) < 1000  # digits of token counts


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 4}, "another seed"), ({"sha256": "1" * 64}, "another sha256"), ({"frames": 9, "path": "x"}, "path")],
)
def test_another_run_is_not_resumed(tmp_path, change, named):
    interrupted_run(tmp_path / "kept")
    with pytest.raises(QuantizationError, match=named):
        collect(network(), samples(), TIMES, replace(SOURCE, **change), tmp_path / "kept")
    with pytest.raises(QuantizationError, match="another steps"):
        collect(network(), samples(), euler_times(5), SOURCE, tmp_path / "kept")


@pytest.mark.parametrize("keep", [0, 7, 1000])
def test_a_truncated_file_is_named(tmp_path, keep):
    file = tmp_path / "file"
    collect(network(), samples(), TIMES, SOURCE).save(file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(QuantizationError, match="is not a readable calibration"):
        Calibration.load(file)


def test_another_kind_of_file_is_no_calibration(tmp_path):
    interrupted_run(tmp_path / "kept")
    with pytest.raises(QuantizationError, match="holds interrupted calibration 1, expected calibration 1"):
        Calibration.load(tmp_path / "kept")
    with pytest.raises(QuantizationError, match="missing"):
        Calibration.load(tmp_path / "missing")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(QuantizationError, match="cannot write"):
        collect(network(), samples(), TIMES, SOURCE).save(tmp_path / "absent" / "file")


@pytest.mark.parametrize("count", [0, 4, 6])
def test_another_number_of_frames_than_promised_is_refused(count):
    with pytest.raises(QuantizationError, match=f"gave {count} frames, expected 5"):
        collect(network(), samples(count), TIMES, SOURCE)


def test_statistics_of_a_bf16_network_are_near_those_of_fp32():
    exact = collect(network(), samples(), TIMES, SOURCE)
    rough = collect(apply_bf16_policy(network()), samples(), TIMES, SOURCE)
    for path, layer in exact.layers.items():
        assert rough.layers[path].channel_amax.dtype == torch.float32
        assert rough.layers[path].amax == pytest.approx(layer.amax, rel=0.1)


def test_parameters_that_arrive_in_bf16_calibrate_in_fp32():
    whole = {name: value.bfloat16() for name, value in network().state_dict().items()}
    model = blank_model(CONFIG)
    fill_model(model, whole.items())
    twin = network()
    twin.load_state_dict({name: value.float() for name, value in whole.items()})
    found, expected = (collect(each, samples(), TIMES, SOURCE) for each in (model, twin))
    for path, layer in expected.layers.items():
        assert torch.equal(found.layers[path].channel_amax, layer.channel_amax)


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ("prefix.layers.0.mlp.down", "prefix.layers.1.attention.k before the Euler loop of frame 0"),
        ("action_in_proj", "action_time_mlp_out in Euler step 0 of frame 0"),
    ],
)
def test_activations_that_are_not_finite_name_the_layer(broken, named, tmp_path):
    model = network()
    with torch.no_grad():
        model.get_submodule(broken).get_parameter("weight").fill_(float("inf"))
    with pytest.raises(QuantizationError, match=named):
        collect(model, samples(), TIMES, SOURCE, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_the_network_is_left_as_it_was():
    model = network()
    collect(model, samples(), TIMES, SOURCE)
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_channels_that_stay_zero_do_not_count_as_alike():
    calibration = collect(network(), samples(), TIMES, SOURCE)
    layer = calibration.layers["expert.layers.0.mlp.down"]
    padded = replace(layer, channel_amax=torch.cat((layer.channel_amax, torch.zeros(1000))))
    assert padded.outlier_ratio == layer.outlier_ratio > 1
    assert replace(layer, channel_amax=torch.zeros(4), amax=0.0).outlier_ratio == 1
