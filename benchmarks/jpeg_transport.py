"""What JPEG saves on the network, costs in time, and does to the actions.

    python -m benchmarks.jpeg_transport [--episodes 4]

Sizes and times are of three 640x480 images of the simulated ALOHA, as they are and with noise of 3 levels (standard
deviation), which a real sensor has and which compresses badly: the truth of a real camera lies between.

Actions are those of the shipped policy, on observations of whole episodes in closed loop, compared by the figures of
the accuracy gate (`pi0_edge.ptq.gate`) with the chunks of fp32 from the raw images on the same noise:

* `another seed`: raw images, another draw of the noise: how far two chunks for one observation are apart anyway.
* `int8-w8a8`: raw images, the quantized policy.
* `scaled, JPEG q`: the robot scales its images to the 112x112 of the policy and sends those as JPEG.
* `whole, JPEG q`: the robot sends 448x448 as JPEG and the server scales; compared with 448x448 sent raw.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from pi0_edge.evaluation.rollout import observe, prompt_of
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.processing.images import resize_with_pad
from pi0_edge.ptq.gate import GateReport, compare
from pi0_edge.ptq.simulated_source import EXECUTED, FIRST_SEED
from pi0_edge.ptq.trace import Trace, trace
from pi0_edge.ptq.verdict import DEFAULT_THRESHOLDS
from pi0_edge.serving.jpeg_images import decode_jpeg, encode_jpeg
from pi0_edge.serving.policy_client import write_observation
from pi0_edge.shipped import shipped_checkpoint
from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube
from pi0_edge.sim.tasks import TRANSFER_CUBE

QUALITIES = (95, 90, 80, 60)
WHOLE = 448
NOISE = 3.0
CAMERAS = ("top", "left_wrist", "right_wrist")
Pixels = NDArray[np.uint8]


def episodes(policy: Policy, count: int) -> list[Observation]:
    """Observations of whole episodes, images 448x448; the policy acts on them."""
    env, prompt, found = AlohaTransferCube(), prompt_of(policy, TRANSFER_CUBE), []
    try:
        for seed in range(FIRST_SEED, FIRST_SEED + count):
            env.reset(seed)
            for tick in range(0, TRANSFER_CUBE.max_ticks, EXECUTED):
                found.append(observe(env, prompt, WHOLE))
                for setpoint in policy.infer(found[-1], noise_seed=seed * 10_000 + tick).actions[:EXECUTED]:
                    env.step(setpoint)
                if env.success:
                    break
    finally:
        env.close()
    return found


def wide_pictures(count: int = 8) -> list[Pixels]:
    """640x480, uint8 [480, 640, 3], while nothing moves but the cube's place."""
    env = AlohaTransferCube()
    try:
        pictures = []
        for seed in range(count):
            env.reset(seed)
            pictures.append(env.render("top", 480, 640))
        return pictures
    finally:
        env.close()


def noisy(picture: Pixels, seed: int) -> Pixels:
    grain = np.random.default_rng(seed).normal(0, NOISE, picture.shape)
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


def milliseconds(call: Callable[[], object]) -> float:
    """CPU time of this thread, median of 9."""
    times = []
    for _ in range(9):
        begun = time.thread_time()
        call()
        times.append((time.thread_time() - begun) * 1e3)
    return statistics.median(times)


def transport_row(pictures: Sequence[Pixels], quality: int | None) -> tuple[float, float, float]:
    """Megabytes of one observation with three cameras, and milliseconds to encode and to decode one image."""
    sizes, encode, decode = [], [], []
    for picture in pictures:
        seen = Observation(dict.fromkeys(CAMERAS, picture), np.zeros(14), None)
        sizes.append(write_observation(seen, 1, 2, None, None, quality).ByteSize())
        if quality is not None:
            encode.append(milliseconds(lambda picture=picture: encode_jpeg(picture, quality)))
            content = encode_jpeg(picture, quality)
            decode.append(milliseconds(lambda content=content: decode_jpeg(content, 480, 640)))
    mean = statistics.mean
    return mean(sizes) / 1e6, mean(encode) if encode else 0.0, mean(decode) if decode else 0.0


def through_jpeg(observations: Sequence[Observation], quality: int) -> list[Observation]:
    """The observations as a server sees them that were sent as JPEG."""

    def crossed(image: Pixels) -> Pixels:
        return decode_jpeg(encode_jpeg(image, quality), *image.shape[:2])

    return [
        replace(seen, images={name: crossed(image) for name, image in seen.images.items()}) for seen in observations
    ]


def scaled(observations: Sequence[Observation], size: int) -> list[Observation]:
    """As a robot sends them that scales its images itself."""
    return [
        replace(seen, images={name: resize_with_pad(image, size) for name, image in seen.images.items()})
        for seen in observations
    ]


def draw(found: Trace, number: int) -> Trace:
    """One noise draw of a trace."""
    return Trace(found.normalized[:, number : number + 1], found.physical[:, number : number + 1], {}, {})


def action_row(name: str, report: GateReport) -> str:
    arms = [joint for joint in report.joints if not joint.name.endswith("gripper")]
    grippers = [joint for joint in report.joints if joint.name.endswith("gripper")]
    figures = [np.mean(report.cosine_whole), min(report.cosine_whole), np.mean(report.cosine_executed)]
    cells = [*(f"{value:.5f}" for value in figures), f"{min(report.cosine_executed):.5f}"]
    cells += [f"{1e3 * max(joint.p99 for joint in arms):.1f}", f"{1e3 * max(joint.max for joint in arms):.1f}"]
    cells += [f"{max(joint.max for joint in grippers):.3f}", "yes" if report.verdict.passed else "no"]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("\n".join(f"{name}: {value}" for name, value in describe_machine().items()), end="\n\n")

    pictures = wide_pictures()
    grainy = [noisy(picture, seed) for seed, picture in enumerate(pictures)]
    print("| 3 x 640x480 | MB, rendered | MB, with noise | encode ms per image | decode ms per image |")
    print("|---|---|---|---|---|")
    for quality in (None, *QUALITIES):
        clean, rough = transport_row(pictures, quality), transport_row(grainy, quality)
        times = f"{rough[1]:.1f} | {rough[2]:.1f}" if quality else "- | -"
        print(f"| {f'JPEG {quality}' if quality else 'raw'} | {clean[0]:.3f} | {rough[0]:.3f} | {times} |")
    print()

    reference = Policy.load(shipped_checkpoint(), "reference")
    joints = reference.processor.robot.action_labels
    whole = episodes(reference, options.episodes)
    small = scaled(whole, reference.engine.config.vision.image_size)

    def report(truth: Trace, found: Trace) -> GateReport:
        return compare(truth, found, joints, DEFAULT_THRESHOLDS)

    truth = trace(reference, small, draws=2, probed=0)
    first = draw(truth, 0)

    def chunks(policy: Policy, observations: Sequence[Observation]) -> Trace:
        """On the noise of the first draw: two are made, so that the seeds are the same."""
        return draw(trace(policy, observations, draws=2, probed=0), 0)

    print(f"{len(small)} observations of {options.episodes} episodes")
    print("| images | cosine mean | worst | executed mean | worst | arm p99 mrad | largest | gripper largest | gate |")
    print("|---|---|---|---|---|---|---|---|---|")
    print(action_row("raw, another seed", report(first, draw(truth, 1))))
    int8 = Policy.load(shipped_checkpoint(), "cpu", "int8-w8a8")
    print(action_row("raw, int8-w8a8", report(first, chunks(int8, small))))
    for quality in QUALITIES:
        print(action_row(f"scaled, JPEG {quality}", report(first, chunks(reference, through_jpeg(small, quality)))))
    whole_truth = chunks(reference, whole)
    for quality in QUALITIES:
        found = report(whole_truth, chunks(reference, through_jpeg(whole, quality)))
        print(action_row(f"whole, JPEG {quality}", found))


if __name__ == "__main__":
    main()
