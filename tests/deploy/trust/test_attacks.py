"""Real attacks with real metadata: each is refused, in words that say what happened."""

from __future__ import annotations

import itertools
import os
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from release_builders import received
from trust_cases import Robot, Workstation

from pi0_edge.deploy.trust import rotate_key, trust_root, verify_release
from pi0_edge.deploy.trust.keys import load_signer
from pi0_edge.errors import TrustError

pytestmark = pytest.mark.usefixtures("unsynced_files")

FILES = ["metadata/timestamp.json", "metadata/2.snapshot.json", "metadata/2.targets.json", "bundle/manifest.json"]


@pytest.fixture
def workstation(tmp_path: Path) -> Workstation:
    return Workstation(tmp_path)


@pytest.fixture
def robot(workstation: Workstation) -> Robot:
    return workstation.robot()


def test_a_release_is_accepted_with_a_reason_for_every_decision(workstation: Workstation, robot: Robot) -> None:
    found = robot.verify(workstation.release(7))
    assert (found.release.sequence, found.release.robot, found.release.hardware) == (7, "so101", ("any",))
    assert found.targets.keys() == {"manifest.json"}
    assert found.targets["manifest.json"].sha256 == found.release.manifest_sha256
    assert [reason.split(":")[0] for reason in found.reasons] == ["time", "keys", "signed", "bundle", "sequence"]
    assert "timestamp version 8, expires 20" in found.reasons[2]


def test_a_replay_of_what_runs_is_accepted(workstation: Workstation, robot: Robot) -> None:
    staged = workstation.release(7)
    assert robot.install(staged).release == robot.install(staged).release


def test_an_older_release_with_valid_signatures_is_refused(workstation: Workstation, robot: Robot) -> None:
    old, new = workstation.release(1), workstation.release(2)
    robot.install(old)
    robot.install(new)
    robot.refuses(old, "older than what this robot has had already.*higher sequence")
    robot.install(new)


def test_a_verified_release_makes_older_ones_refused_even_before_it_is_committed(
    workstation: Workstation, robot: Robot
) -> None:
    old, new = workstation.release(1), workstation.release(2)
    robot.verify(new)
    robot.refuses(old, "older than what this robot has had already")


def test_an_older_bundle_comes_back_by_a_new_signature(workstation: Workstation, robot: Robot) -> None:
    first = robot.install(workstation.release(1, "good"))
    robot.install(workstation.release(2, "bad"))
    again = robot.install(workstation.release(3, "good"))
    assert again.release.manifest_sha256 == first.release.manifest_sha256
    assert again.release.id != first.release.id, "it is a release of its own, which a robot may have taken back or not"


def test_a_frozen_release_is_refused_once_it_expired(workstation: Workstation, robot: Robot) -> None:
    staged = workstation.release(1, expires_months=2)
    in_a_month, in_three = ((datetime.now(timezone.utc) + timedelta(days=days)).timestamp() for days in (30, 95))
    robot.install(staged, in_a_month)
    robot.refuses(staged, r"expired on \d{4}-\d\d-\d\d, and it is .*held back.*by the clock", in_three)
    with pytest.raises(TrustError, match="expired on"):
        workstation.robot("new").verify(staged, in_three)


def test_an_expired_root_stops_installs_until_it_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pi0_edge.deploy.trust.trust_folder.ROOT_YEARS", 1)
    workstation = Workstation(tmp_path, expires_months=24)
    robot, staged = workstation.robot(), workstation.release(1)
    later = (datetime.now(timezone.utc) + timedelta(days=400)).timestamp()
    robot.install(staged)
    robot.refuses(
        staged, "root metadata of the release expired on .*renew it with `pi0-edge keys rotate` and sign", later
    )
    rotate_key(workstation.trust.path, None)
    robot.install(workstation.release(2), later)


PARTS = ("timestamp", "snapshot", "targets", "manifest")
MIXED = [choice for choice in itertools.product((0, 1), repeat=4) if len(set(choice)) == 2]


@pytest.mark.parametrize("choice", MIXED, ids=lambda choice: "".join(map(str, choice)))
def test_any_mixture_of_two_releases_is_refused(
    workstation: Workstation, robot: Robot, choice: tuple[int, ...], tmp_path: Path
) -> None:
    """Each part from one of the two, under both names that it could be looked for."""
    releases = workstation.release(1), workstation.release(2)
    taken = dict(zip(PARTS, choice, strict=True))
    mixed = tmp_path / "mixed"
    for folder in ("metadata", "bundle"):
        (mixed / folder).mkdir(parents=True)
    shutil.copy(releases[0] / "metadata/1.root.json", mixed / "metadata")
    shutil.copy(releases[taken["timestamp"]] / "metadata/timestamp.json", mixed / "metadata")
    shutil.copy(releases[taken["manifest"]] / "bundle/manifest.json", mixed / "bundle")
    for role in ("snapshot", "targets"):
        own = releases[taken[role]] / "metadata" / f"{2 + taken[role]}.{role}.json"
        for version in (2, 3):
            shutil.copy(own, mixed / "metadata" / f"{version}.{role}.json")
    robot.refuses(mixed, "parts of two releases are mixed|manifest.json is not the one that release .* signs")
    robot.install(releases[0])
    robot.refuses(mixed, "parts of two releases are mixed|manifest.json is not|not the one of the same version")
    robot.install(releases[1])


def test_the_bundle_of_another_release_is_refused(workstation: Workstation, robot: Robot) -> None:
    first, second = workstation.release(1), workstation.release(2)
    shutil.copy(first / "bundle/manifest.json", second / "bundle/manifest.json")
    robot.refuses(second, "manifest.json is not the one that release .* signs")


def test_another_trust_folder_is_refused(workstation: Workstation, robot: Robot, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Workstation(tmp_path / "other")
    staged = other.release(1)
    robot.refuses(staged, "1.root.json of the release is not the root 1 that this robot trusts .* another trust folder")
    own = workstation.release(1)
    for name in ("timestamp.json", "2.snapshot.json", "2.targets.json"):
        shutil.copy(staged / "metadata" / name, own / "metadata" / name)
    key = load_signer(other.trust.keys / "release.pem").public_key.keyid[:16]
    robot.refuses(own, f"timestamp.json of the release was signed by another key, {key}")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_is_named(workstation: Workstation, robot: Robot, name: str) -> None:
    staged = workstation.release(1)
    (staged / name).unlink()
    robot.refuses(staged, f"{Path(name).name} of the (release|bundle) is missing; send")
    assert robot.install(received(workstation.folder / "bundle-1", staged))


@pytest.mark.parametrize("known", [False, True], ids=["new", "replayed"])
@pytest.mark.parametrize("name", FILES)
def test_a_huge_file_is_not_read(workstation: Workstation, robot: Robot, name: str, known: bool) -> None:
    staged = workstation.release(1)
    if known:
        robot.install(staged)
    os.truncate(staged / name, 2**40)
    robot.refuses(staged, "has 1099511627776 bytes, expected at most")


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "pipe"])
@pytest.mark.parametrize("name", [*FILES, "metadata/1.root.json", "metadata/2.root.json"])
def test_what_is_no_plain_file_is_refused(workstation: Workstation, robot: Robot, name: str, kind: str) -> None:
    staged = workstation.release(1)
    content = (staged / name).read_bytes() if (staged / name).exists() else b""
    (staged / name).unlink(missing_ok=True)
    outside = workstation.folder / "outside"
    outside.write_bytes(content)  # even the right bytes are not read through a link
    if kind == "folder":
        (staged / name).mkdir()
    elif kind == "pipe":
        os.mkfifo(staged / name)
    else:
        (staged / name).symlink_to(outside if kind == "link" else "nowhere")
    robot.refuses(staged, "plain file")


@pytest.mark.parametrize("folder", ["metadata", "bundle", "."])
def test_a_folder_that_is_a_link_is_refused(workstation: Workstation, robot: Robot, folder: str) -> None:
    staged = workstation.release(1)
    real, link = (staged.with_name("real"), staged) if folder == "." else (staged / "real", staged / folder)
    link.rename(real)
    link.symlink_to(real)
    robot.refuses(staged, "cannot be read.*no link")


def test_the_old_release_key_is_refused_after_its_rotation(workstation: Workstation, robot: Robot) -> None:
    robot.install(workstation.release(1))
    stolen = shutil.copytree(workstation.trust.path, workstation.folder / "stolen")
    rotate_key(workstation.trust.path, "release")
    new = workstation.release(2)
    found = robot.install(new)
    assert found.reasons[1].startswith("keys: root 2")

    forged = Workstation.__new__(Workstation)
    forged.folder, forged.trust = workstation.folder, type(workstation.trust)(stolen)
    old_key = load_signer(stolen / "keys/release.pem").public_key.keyid[:16]
    staged = forged.release(99, "forged")
    robot.refuses(staged, f"signed by another key, {old_key}, and root 2 .* a replaced key comes with a new root")
    shutil.copy(new / "metadata/2.root.json", staged / "metadata")
    robot.refuses(staged, "signed by another key")


def test_a_new_root_counts_even_where_the_rest_of_its_release_is_refused(
    workstation: Workstation, robot: Robot
) -> None:
    old = workstation.release(1)
    rotate_key(workstation.trust.path, "release")
    new = workstation.release(2)
    (new / "metadata/timestamp.json").write_text("{}")
    robot.refuses(new, "timestamp.json of the release is no metadata")
    robot.refuses(old, "signed by another key")


def test_a_robot_that_missed_many_rotations_follows_the_whole_chain(workstation: Workstation) -> None:
    behind = workstation.robot("behind")
    for name in ("release", "root-1", "root-2", "root-3", "release"):
        rotate_key(workstation.trust.path, name)
    staged = workstation.release(1)
    assert behind.install(staged).reasons[1].startswith("keys: root 6")
    assert workstation.robot("young", root=6).install(staged)
    assert workstation.robot("between", root=3).install(staged)


def test_a_gap_in_the_chain_is_named(workstation: Workstation, robot: Robot) -> None:
    rotate_key(workstation.trust.path, "release")
    rotate_key(workstation.trust.path, "release")
    staged = workstation.release(1)
    shutil.copy(staged / "metadata/3.root.json", staged / "metadata/2.root.json")
    robot.refuses(staged, "2.root.json of the release does not follow root 1")
    (staged / "metadata/2.root.json").unlink()
    robot.refuses(staged, "signed by another key.*a replaced key comes with a new root")


def test_a_signature_that_counts_for_nothing_does_not_lock_the_robot_out(
    workstation: Workstation, robot: Robot
) -> None:
    """Whoever may write to the staging folder adds one to a root; the true file must be accepted afterwards."""
    rotate_key(workstation.trust.path, "release")
    staged = workstation.release(1)
    root = staged / "metadata/2.root.json"
    content = root.read_bytes()
    root.write_bytes(content.replace(b'"signatures":[', b'"signatures":[{"keyid":"ab","sig":"cd"},', 1))
    robot.install(staged)
    root.write_bytes(content)
    robot.install(staged)


def test_a_robot_without_a_root_says_what_to_do(workstation: Workstation, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match=r"trusts no keys yet.*robot provision"):
        verify_release(workstation.release(1), tmp_path / "none", sequence_floor=0, committed_at=0)


def test_provisioning_twice_changes_nothing_and_another_root_is_refused(
    workstation: Workstation, tmp_path: Path
) -> None:
    robot = workstation.robot()
    trust_root(robot.tuf, workstation.trust.roots()[0])
    (tmp_path / "other").mkdir()
    with pytest.raises(TrustError, match=r"this robot trusts root 1 .* does not follow it"):
        trust_root(robot.tuf, Workstation(tmp_path / "other").trust.roots()[0])
    with pytest.raises(TrustError, match="cannot trust this root"):
        trust_root(robot.tuf, b"{}")
    with pytest.raises(TrustError, match="timestamp metadata, expected root"):
        trust_root(tmp_path / "none", (workstation.trust.metadata / "timestamp.json").read_bytes())
    assert robot.install(workstation.release(1))


def test_provisioning_again_after_a_rotation_follows_one_step(workstation: Workstation, robot: Robot) -> None:
    old = workstation.release(1)
    rotate_key(workstation.trust.path, "release")
    trust_root(robot.tuf, workstation.trust.roots()[1])
    trust_root(robot.tuf, workstation.trust.roots()[0])
    robot.refuses(old, "signed by another key")
    for _ in range(2):
        rotate_key(workstation.trust.path, "release")
    with pytest.raises(TrustError, match=r"this robot trusts root 2 .* does not follow it directly"):
        trust_root(robot.tuf, workstation.trust.roots()[3])
    robot.install(workstation.release(2))
    trust_root(robot.tuf, workstation.trust.roots()[3])


def test_a_trust_folder_that_was_copied_back_is_told(workstation: Workstation, robot: Robot) -> None:
    saved = shutil.copytree(workstation.trust.path, workstation.folder / "saved")
    robot.install(workstation.release(1, "a"))
    shutil.rmtree(workstation.trust.path)
    saved.rename(workstation.trust.path)
    robot.refuses(workstation.release(1, "b"), "not the one of the same version that this robot has had.*older state")
    robot.install(workstation.release(2, "b"))


def test_a_trust_folder_that_was_copied_back_from_long_ago_goes_on_with_a_higher_sequence(
    workstation: Workstation, robot: Robot
) -> None:
    saved = shutil.copytree(workstation.trust.path, workstation.folder / "saved")
    for sequence in range(1, 8):
        robot.install(workstation.release(sequence, "a"))
    shutil.rmtree(workstation.trust.path)
    saved.rename(workstation.trust.path)
    robot.refuses(workstation.release(6, "b"), "older than what this robot has had")
    robot.install(workstation.release(8, "b"))


def test_a_sequence_can_be_a_date(workstation: Workstation, robot: Robot) -> None:
    assert robot.install(workstation.release(20261127123059)).release.sequence == 20261127123059
