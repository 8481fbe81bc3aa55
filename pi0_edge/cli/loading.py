"""What several commands load: the policy of a bundle or checkpoint, the sizes of a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pi0_edge.policy import Policy
    from pi0_edge.training_profile import TrainingProfile


def load_policy(
    *,
    checkpoint: Path | None = None,
    bundle: Path | None = None,
    engine: str,
    scheme: str | None = None,
    robot: str | None = None,
    tokenizer: Path | None = None,
    sizes: Path | None = None,
    public_key: Path | None = None,
    accept_failed_gate: bool = False,
    threads: int | None = None,
    norm_stats: Path | None = None,
    refuse_unfit_state: bool = False,
    truncate_prompts: bool = False,
) -> Policy:
    """The policy of a bundle or of a checkpoint, the shipped one where neither is given; each argument is a flag.

    Raises:
        ConfigError: If two flags contradict each other.
        Pi0EdgeError: As `Policy.load` and `Policy.from_bundle`.
    """
    from pi0_edge.bundle.checksums import MANIFEST
    from pi0_edge.errors import ConfigError
    from pi0_edge.policy import Policy
    from pi0_edge.quant.scheme_files import load_scheme

    use_threads(threads)
    if bundle is not None:
        own = {"checkpoint": checkpoint, "scheme": scheme, "robot": robot, "tokenizer": tokenizer, "config": sizes}
        own |= {"norm-stats": norm_stats, "truncate-prompts": truncate_prompts or None}
        if given := [name for name, value in own.items() if value is not None]:
            raise ConfigError(f"--bundle brings its own {given[0]}; leave --{given[0]} out")
        policy = Policy.from_bundle(bundle, engine, public_key, accept_failed_gate)
        policy.refuse_unfit_state = refuse_unfit_state
        return policy
    if public_key is not None or accept_failed_gate:
        raise ConfigError("--public-key and --accept-failed-gate are about a bundle; give --bundle with them")
    if checkpoint is not None and (checkpoint / MANIFEST).is_file():
        raise ConfigError(f"{checkpoint} is a bundle, not a checkpoint; give it as --bundle")
    policy = Policy.load(
        checkpoint_or_shipped(checkpoint),
        engine,
        None if scheme is None else load_scheme(scheme),
        robot,
        tokenizer,
        read_sizes(sizes, truncate_prompts),
        norm_stats,
    )
    policy.refuse_unfit_state = refuse_unfit_state
    return policy


def load_training_profile_of(
    checkpoint: Path | None, bundle: Path | None, file: Path | None, public_key: Path | None = None
) -> TrainingProfile | None:
    """The training profile of a policy: from a file if given, else from its bundle, else from beside its checkpoint.

    Args:
        checkpoint: The checkpoint; where no bundle is given either, the shipped policy.
        bundle: The bundle, which is verified.
        file: The flag --training-profile.
        public_key: Whose signature the bundle must have.

    Raises:
        ConfigError: If it cannot be used.
        BundleError: If the bundle is refused.
    """
    from pi0_edge.bundle import open_bundle
    from pi0_edge.training_profile import find_training_profile, load_training_profile

    if file is not None:
        return load_training_profile(file)
    if bundle is not None:
        return open_bundle(bundle, public_key=public_key).training_profile()
    return find_training_profile(checkpoint_or_shipped(checkpoint))


def checkpoint_or_shipped(checkpoint: Path | None) -> Path:
    """A checkpoint, or that of the shipped policy.

    Raises:
        CheckpointError: If this copy of the package lacks the shipped policy.
    """
    from pi0_edge.shipped import shipped_checkpoint

    return shipped_checkpoint() if checkpoint is None else checkpoint


def read_sizes(sizes: Path | None, truncate_prompts: bool = False) -> dict[str, object] | None:
    """What the flag --config gives, sizes and settings, with the setting that --truncate-prompts gives.

    Raises:
        ConfigError: If the file is no SIZES file.
    """
    from pi0_edge.checkpoints import load_sizes

    given: dict[str, object] = {"truncate_prompts": True} if truncate_prompts else {}
    return given or None if sizes is None else {**load_sizes(sizes), **given}


def use_threads(threads: int | None) -> None:
    """Gives the network as many CPU threads; torch's default where None."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
