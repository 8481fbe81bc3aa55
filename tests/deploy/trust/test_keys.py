"""Making a trust folder and replacing its keys: thresholds, keys elsewhere, and what an interruption leaves."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from trust_cases import Workstation
from tuf.api.metadata import Metadata, Root  # pyright: ignore[reportPrivateImportUsage]

from pi0_edge import synced_files
from pi0_edge.bundle.keys import fingerprint as bundle_fingerprint
from pi0_edge.bundle.keys import write_key_pair
from pi0_edge.deploy.trust import TrustFolder, init_trust, rotate_key
from pi0_edge.deploy.trust.inspection import keys_of
from pi0_edge.deploy.trust.keys import load_signer
from pi0_edge.deploy.trust.trust_folder import TrustRequest
from pi0_edge.errors import DeployError

pytestmark = pytest.mark.usefixtures("unsynced_files")


@pytest.fixture
def workstation(tmp_path: Path) -> Workstation:
    return Workstation(tmp_path)


def take_away(workstation: Workstation, *names: str) -> list[Path]:
    """Moves keys to a stick."""
    stick = workstation.folder / "stick"
    stick.mkdir(exist_ok=True)
    return [(workstation.trust.keys / f"{name}.pem").rename(stick / f"{name}.pem") for name in names]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_keys_are_private_files_and_root_names_them(workstation: Workstation) -> None:
    trust = workstation.trust
    names = {path.name: path.stat().st_mode for path in trust.keys.iterdir()}
    assert names.keys() == {"root-1.pem", "root-2.pem", "root-3.pem", "release.pem"}
    assert all(stat.S_IMODE(mode) == 0o600 for mode in names.values())
    assert stat.S_IMODE(trust.keys.stat().st_mode) == 0o700
    root = trust.root().signed
    assert keys_of(root, "root").keys() == {"root-1", "root-2", "root-3"}
    assert root.roles["root"].threshold == 2
    release = load_signer(trust.keys / "release.pem").public_key.keyid[:16]
    assert [keys_of(root, role) for role in ("targets", "snapshot", "timestamp")] == [{"release": release}] * 3
    assert trust.roots() == [(trust.metadata / "root.json").read_bytes()]


def test_a_fingerprint_is_the_same_everywhere(workstation: Workstation, tmp_path: Path) -> None:
    write_key_pair(tmp_path / "new.pem", tmp_path / "new.pub.pem")
    rotate_key(workstation.trust.path, "release", new_public_key=tmp_path / "new.pub.pem")
    found = keys_of(workstation.trust.root().signed, "targets")
    assert found == {"release": bundle_fingerprint(tmp_path / "new.pub.pem")}


def test_the_same_request_again_changes_nothing_and_another_is_refused(workstation: Workstation) -> None:
    before = contents(workstation.trust.path)
    init_trust(workstation.trust.path)
    for other in ({"root_keys": 4}, {"root_threshold": 3}, {"expires_months": 6}):
        with pytest.raises(DeployError, match="is a trust folder already, with 2 of 3 root keys and 12 months"):
            init_trust(workstation.trust.path, **other)
    assert contents(workstation.trust.path) == before
    rotate_key(workstation.trust.path, "root-2")
    init_trust(workstation.trust.path)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"root_threshold": 0}, "0 of 3 root keys is not possible"),
        ({"root_keys": 1}, "2 of 1 root keys is not possible"),
        ({"root_keys": 10}, "2 of 10 root keys"),
        ({"expires_months": 0}, "0 months"),
        ({"expires_months": 121}, "121 months"),
    ],
)
def test_an_impossible_request_makes_nothing(tmp_path: Path, request_: dict[str, int], message: str) -> None:
    with pytest.raises(DeployError, match=message):
        init_trust(tmp_path / "trust", **request_)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_trust_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "trust").mkdir()
    (tmp_path / "trust" / "mine").write_text("mine")
    with pytest.raises(DeployError, match="exists already and is no trust folder"):
        init_trust(tmp_path / "trust")
    with pytest.raises(DeployError, match="cannot be made"):
        init_trust(tmp_path / "none" / "trust")
    with pytest.raises(DeployError, match="no trust folder"):
        rotate_key(tmp_path / "trust", "release")
    assert (tmp_path / "trust" / "mine").read_text() == "mine"


def test_a_single_root_key_is_possible(tmp_path: Path) -> None:
    workstation = Workstation(tmp_path, root_keys=1, root_threshold=1)
    robot = workstation.robot()
    rotate_key(workstation.trust.path, "root-1")
    rotate_key(workstation.trust.path, "release")
    robot.install(workstation.release(1))


def test_one_of_three_root_keys_is_not_enough_and_two_are(workstation: Workstation) -> None:
    stick = take_away(workstation, "root-1", "root-2", "root-3")
    robot = workstation.robot()
    with pytest.raises(DeployError, match=r"0 of the root keys of root 1 would sign, and 2 must.*--root-key: root-1"):
        rotate_key(workstation.trust.path, "release")
    with pytest.raises(DeployError, match="1 of the root keys of root 1 would sign, and 2 must"):
        rotate_key(workstation.trust.path, "release", root_keys=stick[:1])
    with pytest.raises(DeployError, match="1 of the root keys of root 1 would sign"):
        rotate_key(workstation.trust.path, "release", root_keys=[stick[0], stick[0]])
    assert len(workstation.trust.roots()) == 1
    assert rotate_key(workstation.trust.path, "release", root_keys=stick[1:]) == 2
    robot.install(workstation.release(1))


@pytest.mark.parametrize(("kept", "accepted"), [(0, False), (1, False), (2, True), (3, True)])
def test_a_robot_counts_the_signatures_of_a_new_root(workstation: Workstation, kept: int, accepted: bool) -> None:
    robot = workstation.robot()
    rotate_key(workstation.trust.path, "release")
    staged = workstation.release(1)
    path = staged / "metadata/2.root.json"
    root = Metadata[Root].from_bytes(path.read_bytes())
    root.signatures = dict(list(root.signatures.items())[:kept])
    path.write_bytes(root.to_bytes())
    if accepted:
        robot.install(staged)
    else:
        robot.refuses(
            staged, f"2.root.json of the release does not follow root 1 .*signed by {kept}/2 keys.*broken at 2"
        )


def test_a_new_root_that_only_its_own_keys_sign_is_refused(workstation: Workstation) -> None:
    """An attacker who makes a root of his own with the next version."""
    robot = workstation.robot()
    rotate_key(workstation.trust.path, "release")
    staged = workstation.release(1)
    path = staged / "metadata/2.root.json"
    root = Metadata[Root].from_bytes(path.read_bytes())
    (workstation.folder / "other").mkdir()
    other = Workstation(workstation.folder / "other").trust
    root.signed.keys = other.root().signed.keys
    root.signed.roles = other.root().signed.roles
    root.signatures.clear()
    for name in ("root-1", "root-2", "root-3"):
        root.sign(load_signer(other.keys / f"{name}.pem"), append=True)
    path.write_bytes(root.to_bytes())
    robot.refuses(staged, "2.root.json of the release does not follow root 1 .*signed by 0/2 keys")


def test_a_root_key_is_replaced_and_the_old_one_counts_no_more(workstation: Workstation) -> None:
    robot = workstation.robot()
    stick = take_away(workstation, "root-1", "root-2", "root-3")
    rotate_key(workstation.trust.path, "root-1", root_keys=stick[1:])
    assert sorted(path.name for path in workstation.trust.keys.iterdir()) == ["release.pem", "root-1.pem"]
    assert robot.install(workstation.release(1)).reasons[1].startswith("keys: root 2")
    with pytest.raises(DeployError, match="given with --root-key is no root key here"):
        rotate_key(workstation.trust.path, "release", root_keys=stick[:2])
    rotate_key(workstation.trust.path, "release", root_keys=[workstation.trust.keys / "root-1.pem", stick[2]])
    assert robot.install(workstation.release(2)).reasons[1].startswith("keys: root 3")


def test_a_key_that_is_kept_elsewhere_takes_the_place_of_one(workstation: Workstation, tmp_path: Path) -> None:
    write_key_pair(tmp_path / "vault.pem", tmp_path / "vault.pub.pem")
    rotate_key(workstation.trust.path, "release", new_public_key=tmp_path / "vault.pub.pem")
    assert not (workstation.trust.keys / "release.pem").exists()
    assert (workstation.trust.keys / "release.retired-1.pem").exists()
    with pytest.raises(DeployError, match=r"the private key release .* is needed from .*keys, and it is not there"):
        workstation.release(1)
    with pytest.raises(DeployError, match=r"root-1.pem is the key"):
        workstation.release(1, release_key=workstation.trust.keys / "root-1.pem")
    workstation.robot().install(workstation.release(1, release_key=tmp_path / "vault.pem"))


def test_mistakes_are_named_and_change_nothing(workstation: Workstation, tmp_path: Path) -> None:
    trust, before = workstation.trust, contents(workstation.trust.path)
    write_key_pair(tmp_path / "new.pem", tmp_path / "new.pub.pem")
    (tmp_path / "junk.pem").write_text("junk")
    mistakes = [
        ({"replace": "root-4"}, "no key 'root-4' .* expected one of release, root-1, root-2, root-3"),
        ({"replace": None, "new_public_key": tmp_path / "new.pub.pem"}, "say which with --replace"),
        ({"replace": "release", "new_public_key": tmp_path / "new.pem"}, "not a public key in PEM"),
        ({"replace": "release", "new_public_key": tmp_path / "none"}, "not a public key in PEM"),
        ({"replace": "release", "root_keys": [tmp_path / "junk.pem"]}, "not a private key in PEM"),
        ({"replace": "release", "root_keys": [tmp_path / "new.pem"]}, "is no root key here"),
    ]
    for arguments, message in mistakes:
        with pytest.raises(DeployError, match=message):
            rotate_key(trust.path, **arguments)
        assert contents(trust.path) == before


def test_one_key_cannot_stand_for_two(workstation: Workstation, tmp_path: Path) -> None:
    write_key_pair(tmp_path / "new.pem", tmp_path / "new.pub.pem")
    rotate_key(workstation.trust.path, "root-1", new_public_key=tmp_path / "new.pub.pem")
    with pytest.raises(DeployError, match="is the key root-1 of this trust folder already"):
        rotate_key(workstation.trust.path, "root-2", new_public_key=tmp_path / "new.pub.pem")


class PowerCutError(BaseException):
    """Nothing runs after it."""


@pytest.mark.parametrize("replaced", ["release", "root-1"])
def test_a_rotation_that_is_cut_at_any_step_is_done_or_not(tmp_path: Path, replaced: str) -> None:
    """Whatever step is the last one, the trust folder signs and rotates afterwards, and robots follow."""
    done, steps = False, 0
    for steps in range(30):
        folder = tmp_path / str(steps)
        folder.mkdir()
        workstation = Workstation(folder)
        robot = workstation.robot()
        done, counted = False, iter(range(1000))

        def cut(original, counted=counted, steps=steps):
            def call(*arguments: object, **options: object) -> object:
                if next(counted) >= steps:
                    raise PowerCutError
                return original(*arguments, **options)

            return call

        with pytest.MonkeyPatch.context() as patch:
            for module, name in ((synced_files, "write_synced"), (os, "replace"), (os, "link"), (os, "open")):
                patch.setattr(module, name, cut(getattr(module, name)))
            try:
                rotate_key(workstation.trust.path, replaced)
                done = True
            except PowerCutError:
                pass
        version = len(workstation.trust.roots())
        assert version in ((2,) if done else (1, 2))
        robot.install(workstation.release(1))
        assert rotate_key(workstation.trust.path, replaced) == version + 1
        assert (workstation.trust.metadata / "root.json").read_bytes() == workstation.trust.roots()[-1]
        assert not list(workstation.trust.keys.glob("*.new"))
        robot.install(workstation.release(2))
        if done:
            break
    assert done and steps >= 8


def test_an_interrupted_init_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".trust.partial" / "keys").mkdir(parents=True)
    (tmp_path / ".trust.partial" / "keys" / "root-1.pem").write_text("half")
    made = init_trust(tmp_path / "trust")
    assert made.request() == TrustRequest()
    assert [path.name for path in tmp_path.iterdir()] == ["trust"]


def test_a_damaged_trust_folder_is_told(workstation: Workstation) -> None:
    trust = workstation.trust
    (trust.metadata / "1.root.json").write_text("junk")
    with pytest.raises(DeployError, match="is no TUF metadata"):
        trust.root()
    (trust.metadata / "1.root.json").unlink()
    with pytest.raises(DeployError, match=r"it has no .*1.root.json; make one with `pi0-edge keys init`"):
        trust.root()
    (trust.path / "trust.json").write_text("{}")
    assert TrustFolder(trust.path).request() == TrustRequest()
    (trust.path / "trust.json").write_text('{"keys": 3}')
    with pytest.raises(DeployError, match="something else than a request"):
        trust.request()
