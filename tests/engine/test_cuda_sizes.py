"""Networks of other sizes than π0's: run by the kernels on the emulated GPU, or refused before a weight is read."""

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from emulated_operators import emulated_gpu
from engine_cases import CPU, KERNEL_SIZES, attended, quantized
from torch import Tensor

from pi0_edge.engine import assemble_engine, restore_engine
from pi0_edge.engine.cuda.engine import CudaEngine
from pi0_edge.engine.cuda.network import POSITIONS, CudaNetwork, step_tables
from pi0_edge.engine.cuda.sizes import all_prompt_places, check_sizes, prompt_places
from pi0_edge.errors import EngineError
from pi0_edge.model import PRESETS, ModelInputs, Pi0, Pi0Config, VisionConfig
from pi0_edge.model.flow import euler_times
from pi0_edge.model.rtc import FrozenPrefix
from pi0_edge.quant import ORIN, compare_actions, find_scheme

assert emulated_gpu

STEPS = 2
SMALL = replace(
    KERNEL_SIZES,
    prefix=replace(KERNEL_SIZES.prefix, depth=2),
    expert=replace(KERNEL_SIZES.expert, depth=2),
    vision=replace(KERNEL_SIZES.vision, depth=1, image_size=28),
)


def case(config: Pi0Config) -> tuple[Pi0, ModelInputs, Tensor]:
    torch.manual_seed(0)
    model, side = Pi0(config).eval(), config.vision.image_size
    inputs = ModelInputs(
        images=torch.rand(1, 1, 3, side, side) * 2 - 1,
        image_mask=torch.ones(1, 1, dtype=torch.bool),
        tokens=torch.randint(0, 300, (1, 5)),
        token_mask=torch.ones(1, 5, dtype=torch.bool),
        state=torch.randn(1, config.action_dim),
    )
    return model, inputs, torch.randn(1, config.horizon, config.action_dim)


@pytest.mark.parametrize(
    ("variant", "action_dim", "horizon", "expert_width", "frozen"),
    [
        *[("pi0", dim, 10, 64, 3 * (dim % 16)) for dim in (7, 16, 24, 40, 44, 64)],
        *[("pi05", dim, 10, 64, 0) for dim in (16, 40)],
        *[("pi0", 32, horizon, 64, frozen) for horizon, frozen in ((65, 0), (100, 70), (130, 20))],
        ("pi05", 14, 100, 96, 70),
    ],
)
@pytest.mark.usefixtures("emulated_gpu")
def test_any_action_width_and_horizon_gives_the_actions_of_the_reference(
    variant: str, action_dim: int, horizon: int, expert_width: int, frozen: int
):
    expert = replace(SMALL.expert, width=expert_width)
    model, inputs, noise = case(replace(SMALL, variant=variant, action_dim=action_dim, horizon=horizon, expert=expert))
    check_sizes(model.config, ORIN)
    frozen = min(frozen, horizon - 1)
    times = euler_times(STEPS)
    with torch.inference_mode():
        truth = model.sample_actions(inputs, noise, times, FrozenPrefix(noise, frozen))
        tables = step_tables(model, times, CPU)
        network = CudaNetwork(quantized(copy.deepcopy(model), find_scheme("bf16")), CPU)
        x = noise[0].clone()
        network.integrate(
            x, inputs.state[0], attended(network, inputs), tables, torch.tensor([frozen], dtype=torch.int32)
        )
    found = compare_actions(truth, x[None])
    print(f"{variant}, {horizon} actions of {action_dim}: cosine {found.cosine:.7f}, largest {found.max_abs_error:.2e}")
    assert found.cosine > 0.9999 and torch.equal(x[:frozen], noise[0, :frozen])


def test_action_widths_and_horizons_are_possible_and_all_presets_are():
    for config in (*PRESETS.values(), replace(PRESETS["pi0"], action_dim=7, horizon=100)):
        check_sizes(config, ORIN)


VISION, PREFIX, EXPERT = (getattr(PRESETS["pi0"], name) for name in ("vision", "prefix", "expert"))
IMPOSSIBLE: dict[str, tuple[dict[str, object], str]] = {
    "expert too wide": ({"expert": replace(EXPERT, width=2064)}, "expert's width is 2064, expected at most 2048"),
    "expert odd": ({"expert": replace(EXPERT, width=1032)}, "expert's width is 1032, expected a multiple of 16"),
    "prefix too wide": ({"prefix": replace(PREFIX, width=8208)}, "prefix's width is 8208, expected at most 8192"),
    "mlp too wide": ({"prefix": replace(PREFIX, mlp_dim=16400)}, "mlp_dim is 16400, expected at most 16384"),
    "mlp odd": ({"expert": replace(EXPERT, mlp_dim=4100)}, "expert's mlp_dim is 4100, expected a multiple of 16"),
    "heads": (
        {"prefix": replace(PREFIX, head_dim=128), "expert": replace(EXPERT, head_dim=128)},
        "heads have 128 dimensions, expected 256 or 32",
    ),
    "many heads": (
        {"prefix": replace(PREFIX, heads=64), "expert": replace(EXPERT, heads=64)},
        "queries, keys and values is 16896, expected at most 16384",
    ),
    "vision heads": ({"vision": replace(VISION, width=1024)}, "vision heads have 64 dimensions, expected 72 or 32"),
    "patches": (
        {"vision": VisionConfig(1152, 27, 4304, 16, patch_size=56, image_size=224)},
        "patch size is 56, expected at most 32",
    ),
    "horizon": ({"horizon": 3800}, f"is 4105, expected at most {POSITIONS}"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_other_sizes_are_refused_in_words_before_a_weight_is_read(name: str, monkeypatch: pytest.MonkeyPatch):
    sizes, why = IMPOSSIBLE[name]
    config = replace(PRESETS["pi0"], **sizes)  # type: ignore[arg-type]
    monkeypatch.setattr(CudaEngine, "check", staticmethod(lambda _: None))

    def unread() -> Iterator[tuple[str, Tensor]]:
        raise AssertionError("a weight was read")
        yield

    for make in (assemble_engine, restore_engine):
        with pytest.raises(EngineError, match=f"cannot run this policy: .*{why}.*use engine") as refused:
            make("cuda", config, unread(), ORIN)
        assert "\n" not in str(refused.value)


def test_what_only_quantized_vision_needs_is_asked_of_that_alone():
    config = replace(PRESETS["pi0"], vision=replace(VISION, mlp_dim=4300))
    check_sizes(config, ORIN)  # leaves the tower in 16 bits
    with pytest.raises(EngineError, match="vision tower's mlp_dim is 4300, expected a multiple of 16"):
        check_sizes(config, find_scheme("int8-w8a8"))


@pytest.mark.parametrize("longest", [1, 12, 48, 64, 65, 200, 1000, 3000])
def test_a_few_graphs_serve_every_prompt(longest: int):
    config = replace(PRESETS["pi0"], max_prompt_tokens=longest)
    places = all_prompt_places(config)
    assert len(places) <= 4 and places[-1] == longest
    for tokens in range(1, longest + 1):
        found = prompt_places(config, tokens)
        assert found in places and tokens <= found < tokens + max(64, longest / 4 + 16)
    assert prompt_places(config, longest + 5) == longest + 5
