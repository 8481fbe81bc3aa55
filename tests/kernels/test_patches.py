"""Preprocessing on the device, bit for bit as Pillow does it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import EACH_RUNNER, Runner, check_operator, device, runner

from pi0_edge.errors import KernelError
from pi0_edge.kernels.patches import patches, patches_into, resize_plan
from pi0_edge.processing.images import resize_with_pad, to_unit_range

assert runner and device


def frames_of(count: int, height: int, width: int, seed: int) -> np.ndarray:
    """Noise with an edge and a gradient in it."""
    frames = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)
    frames[:, : height // 3] = 255
    frames[:, -(height // 3) :, :, 1] = np.linspace(0, 255, width).astype(np.uint8)
    return frames


@st.composite
def cases(draw: st.DrawFn):
    height, width = draw(st.integers(12, 90)), draw(st.integers(12, 90))
    side, patch = draw(st.sampled_from([(28, 14), (30, 5), (8, 4)]))
    return frames_of(draw(st.integers(1, 2)), height, width, draw(st.integers(0, 2**31))), side, patch


def pillow(frames: np.ndarray, side: int, patch: int) -> torch.Tensor:
    """The same by `pi0_edge.processing` and by the order in which a convolution's weights lie."""
    images = torch.stack([torch.from_numpy(to_unit_range(resize_with_pad(frame, side))) for frame in frames])
    return torch.nn.functional.unfold(images, patch, stride=patch).transpose(1, 2)


def assert_pillow(found: torch.Tensor, case) -> None:
    """Equal, except that recent Pillow may filter the columns of an upright picture first: one level of 255."""
    frames, expected = case[0], pillow(*case)
    if frames.shape[2] >= frames.shape[1]:
        assert torch.equal(found.cpu(), expected)
    else:
        assert ((found.cpu() - expected).abs() <= 2 / 255 + torch.finfo(found.dtype).eps).all()


@EACH_RUNNER
@given(cases())
def test_patches_are_those_of_pillow(runner: Runner, case):
    frames, side, patch = case
    _, height, width, _ = frames.shape
    plan = resize_plan(height, width, side, runner.device)
    out = runner.poisoned(len(frames), (side // patch) ** 2, 3 * patch * patch, dtype=torch.float32)
    patches_into(runner.library, out, *runner(torch.from_numpy(frames)), plan=plan, patch=patch)
    assert_pillow(out, case)


@EACH_RUNNER
@given(cases())
def test_the_operator_on_the_cpu_is_the_same(case):
    frames, side, patch = case
    _, height, width, _ = frames.shape
    assert_pillow(patches(torch.from_numpy(frames), **vars(resize_plan(height, width, side)), patch=patch), case)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (224, 224), (1080, 1920)])
def test_camera_sizes(runner: Runner, height: int, width: int):
    frames = frames_of(1, height, width, 0)
    out = runner.poisoned(1, 256, 588, dtype=torch.float32)
    plan = resize_plan(height, width, 224, runner.device)
    patches_into(runner.library, out, *runner(torch.from_numpy(frames)), plan=plan, patch=14)
    assert torch.equal(out.cpu(), pillow(frames, 224, 14))


def test_a_frame_without_width_is_refused():
    with pytest.raises(ValueError, match="no pixel left"):
        resize_plan(1000, 2, 224)


def test_impossible_patches_are_refused(runner: Runner):
    frames = torch.zeros(1, 28, 28, 3, dtype=torch.uint8)
    out = runner.poisoned(1, 4, 507, dtype=torch.float32)
    with pytest.raises(KernelError, match="patches: invalid argument"):
        patches_into(runner.library, out, *runner(frames), plan=resize_plan(28, 28, 28, runner.device), patch=13)


def test_the_operator_passes_the_checks_of_torch(device: str):
    plan = resize_plan(20, 30, 28)
    frames = torch.zeros(1, 20, 30, 3, dtype=torch.uint8)
    check_operator(patches, (frames, *vars(plan).values(), 14), device)
