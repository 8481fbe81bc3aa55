"""Signing a bundle: what is checked, what the statement says, and the folder beside the bundle."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from release_builders import FAILED, plain_bundle
from trust_cases import Workstation

from firmware_bridge.firmware.joint_table import load_joint_table
from pi0_edge.deploy.release import FirmwareNeed, release_folder
from pi0_edge.deploy.trust import StatementOptions, read_release, sign_release
from pi0_edge.deploy.trust.statement import minor_line
from pi0_edge.deploy.trust.trust_folder import later
from pi0_edge.errors import BundleError, DeployError, TrustError
from pi0_edge.protos.serial_link import VERSION

pytestmark = pytest.mark.usefixtures("unsynced_files")

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def workstation(tmp_path: Path) -> Workstation:
    return Workstation(tmp_path)


def sdk_folder(folder: Path, content: bytes = b"wheel") -> Path:
    folder.mkdir()
    (folder / "pi0_edge-0.1.0-py3-none-any.whl").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    (folder / "requirements.txt").write_text(f"# SDK\npi0-edge==0.1.0 --hash=sha256:{digest}\n")
    return folder


def test_a_statement_comes_from_the_bundle(workstation: Workstation) -> None:
    bundle = plain_bundle(workstation.folder / "cups")
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    release = sign_release(bundle, 3, trust=workstation.trust.path)
    assert release.manifest_sha256 == hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    assert (release.sequence, release.robot, release.hardware, release.sdk) == (3, "so101", ("any",), minor_line())
    assert release.firmware == FirmwareNeed(VERSION, load_joint_table("so101").limits_hash)
    assert abs(release.signed_at - datetime.now(timezone.utc).timestamp()) < 60
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    names = {path.name for path in (release_folder(bundle) / "metadata").iterdir()}
    assert names == {"1.root.json", "4.targets.json", "4.snapshot.json", "timestamp.json"}
    assert read_release(bundle).release == release


def test_what_the_signer_says_is_in_the_statement(workstation: Workstation) -> None:
    image = workstation.folder / "image.bin"
    image.write_bytes(b"firmware")
    options = StatementOptions(("orin-nx", "orin-agx"), ">=0.1.2,<0.3", "nucleo", 7, 0xDEADBEEF)
    sdk = sdk_folder(workstation.folder / "sdk")
    staged = workstation.release(1, "cups", options=options, firmware_image=image, sdk_folder=sdk)
    found = workstation.robot().install(staged)
    assert found.release.hardware == ("orin-nx", "orin-agx")
    assert found.release.sdk == ">=0.1.2,<0.3"
    assert found.release.firmware == FirmwareNeed(7, 0xDEADBEEF, "nucleo")
    place = workstation.published("cups")
    for name, source in (("firmware.bin", image), ("sdk/requirements.txt", sdk / "requirements.txt")):
        assert (place / name).read_bytes() == source.read_bytes()
        assert found.targets[name].sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
        assert found.targets[name].size == source.stat().st_size
    assert sorted(path.name for path in (place / "sdk").iterdir()) == sorted(path.name for path in sdk.iterdir())


def test_a_robot_without_firmware_asks_for_none(workstation: Workstation) -> None:
    bundle = plain_bundle(workstation.folder / "droid", robot_name="droid")
    assert sign_release(bundle, 1, trust=workstation.trust.path).firmware is None
    image = workstation.folder / "image.bin"
    image.write_bytes(b"firmware")
    options = StatementOptions(firmware_board="pico")
    with pytest.raises(DeployError, match=r"cannot drive the robot of the bundle .*--firmware-limits-hash"):
        sign_release(bundle, 2, trust=workstation.trust.path, options=options, firmware_image=image)
    options = StatementOptions(firmware_board="pico", firmware_limits_hash=5)
    signed = sign_release(bundle, 2, trust=workstation.trust.path, options=options, firmware_image=image)
    assert signed.firmware == FirmwareNeed(VERSION, 5, "pico")


@pytest.mark.parametrize(("gate", "why"), [(FAILED, "cosine mean 0.9312"), (None, "never went through"), ({}, "never")])
def test_a_gate_that_did_not_pass_is_refused_unless_its_signer_says_so(
    workstation: Workstation, gate: object, why: str
) -> None:
    bundle = plain_bundle(workstation.folder / "bad", gate=gate)
    with pytest.raises(DeployError, match=f"not signed: .*{why}.*--accept-failed-gate"):
        sign_release(bundle, 1, trust=workstation.trust.path)
    assert not release_folder(bundle).exists()
    sign_release(bundle, 1, trust=workstation.trust.path, options=StatementOptions(accept_failed_gate=True))


def test_a_bundle_that_is_not_whole_is_refused(workstation: Workstation) -> None:
    bundle = plain_bundle(workstation.folder / "cups")
    (bundle / "norm_stats.json").write_text("b")
    with pytest.raises(BundleError, match=r"not signed: norm_stats.json was changed"):
        sign_release(bundle, 1, trust=workstation.trust.path)
    (bundle / "norm_stats.json").unlink()
    with pytest.raises(BundleError, match="is missing"):
        sign_release(bundle, 1, trust=workstation.trust.path)
    with pytest.raises(BundleError, match="is not a folder"):
        sign_release(workstation.folder / "none", 1, trust=workstation.trust.path)
    assert workstation.trust.last_release().timestamp.signed.version == 1


@pytest.mark.parametrize("sequence", [-1, 0])
def test_a_first_sequence_is_at_least_one(workstation: Workstation, sequence: int) -> None:
    with pytest.raises(DeployError, match="is not possible; the first release has 1"):
        workstation.release(sequence)


def test_a_sequence_must_be_higher_than_the_last(workstation: Workstation) -> None:
    workstation.release(5, "a")
    for sequence in (4, 5):
        with pytest.raises(DeployError, match=r"not higher than 5 \(bundle .*use --sequence 6 or more"):
            workstation.release(sequence, "b")
    workstation.release(6, "b")
    with pytest.raises(DeployError, match="not higher than 6"):
        workstation.release(5, "a")
    workstation.release(7, "a")


def test_the_same_request_again_writes_the_same_files_again(workstation: Workstation) -> None:
    workstation.release(1, "cups")
    place = workstation.published("cups")
    before = {path.name: path.read_bytes() for path in (place / "metadata").iterdir()}
    (place / "metadata" / "timestamp.json").unlink()
    workstation.release(1, "cups")
    assert {path.name: path.read_bytes() for path in (place / "metadata").iterdir()} == before
    for other in ({"expires_months": 3}, {"options": StatementOptions(hardware=("orin",))}):
        with pytest.raises(DeployError, match="not higher than 1"):
            workstation.release(1, "cups", **other)


def test_a_release_is_replaced_as_a_whole(workstation: Workstation) -> None:
    sdk = sdk_folder(workstation.folder / "sdk")
    workstation.release(1, "cups", sdk_folder=sdk)
    workstation.release(2, "cups")
    place = workstation.published("cups")
    assert sorted(path.name for path in place.iterdir()) == ["metadata"]
    assert not (place / "metadata" / "2.targets.json").exists()
    assert [path.name for path in workstation.folder.iterdir() if path.name.startswith(".")] == []
    workstation.robot().install(workstation.release(2, "cups"))


def test_something_else_in_its_place_is_left_alone(workstation: Workstation) -> None:
    bundle = plain_bundle(workstation.folder / "cups")
    release_folder(bundle).mkdir()
    (release_folder(bundle) / "mine").write_text("mine")
    with pytest.raises(DeployError, match="is there and is no release; move it away"):
        sign_release(bundle, 1, trust=workstation.trust.path)
    assert (release_folder(bundle) / "mine").read_text() == "mine"


def test_an_sdk_folder_holds_what_its_list_names(workstation: Workstation, tmp_path: Path) -> None:
    bundle = plain_bundle(workstation.folder / "cups")

    def refused(folder: Path, message: str) -> None:
        with pytest.raises(DeployError, match=message):
            sign_release(bundle, 1, trust=workstation.trust.path, sdk_folder=folder)

    refused(tmp_path / "none", r"has no requirements.txt")
    sdk = sdk_folder(tmp_path / "sdk")
    (sdk / "more.whl").write_bytes(b"more")
    refused(sdk, r"more.whl is not listed in")
    (sdk / "more.whl").unlink()
    (sdk / "notes.txt").write_text("notes")
    refused(sdk, r"notes.txt is no wheel")
    (sdk / "notes.txt").unlink()
    next(sdk.glob("*.whl")).unlink()
    refused(sdk, "no wheel in .* has it")


def test_mistakes_in_the_options_are_named(workstation: Workstation, tmp_path: Path) -> None:
    bundle = plain_bundle(workstation.folder / "cups")
    mistakes = [
        ({"options": StatementOptions(firmware_board="pico")}, "go together"),
        ({"firmware_image": tmp_path}, "go together"),
        ({"firmware_image": tmp_path, "options": StatementOptions(firmware_board="pico")}, "is no file"),
        ({"options": StatementOptions(sdk="newest")}, "'newest' is no range of versions; expected such as"),
        ({"options": StatementOptions(hardware=("",))}, "no hardware is named"),
        ({"expires_months": 0}, "0 months"),
        ({"trust": tmp_path / "none"}, "is no trust folder"),
    ]
    for arguments, message in mistakes:
        with pytest.raises(DeployError, match=message):
            sign_release(bundle, 1, **{"trust": workstation.trust.path, **arguments})
        assert not release_folder(bundle).exists()


def test_a_statement_without_a_robot_is_refused(workstation: Workstation) -> None:
    from pi0_edge.bundle.checksums import write_checksums

    bundle = plain_bundle(workstation.folder / "cups")
    manifest = json.loads((bundle / "manifest.json").read_text())
    content = json.dumps({**manifest, "robot": {}}).encode()
    (bundle / "manifest.json").write_bytes(content)
    write_checksums(bundle, content, None)
    with pytest.raises(DeployError, match="which robot"):
        sign_release(bundle, 1, trust=workstation.trust.path)


def test_a_statement_is_shown_with_its_keys_and_expiry(workstation: Workstation, tmp_path: Path) -> None:
    workstation.release(4, "cups", expires_months=2)
    signed = read_release(workstation.folder / "cups", workstation.trust.roots()[0])
    assert (signed.release.sequence, signed.timestamp_version, signed.root_version, signed.root_threshold) == (
        4,
        5,
        1,
        2,
    )
    assert signed.root_keys.keys() == {"root-1", "root-2", "root-3"} and signed.release_keys.keys() == {"release"}
    assert not signed.is_expired
    (tmp_path / "other").mkdir()
    other = Workstation(tmp_path / "other")
    with pytest.raises(TrustError, match="signed by another key"):
        read_release(workstation.folder / "cups", other.trust.roots()[0])
    with pytest.raises(TrustError, match="is not signed"):
        read_release(plain_bundle(tmp_path / "unsigned"))
    (workstation.published("cups") / "metadata" / "1.root.json").unlink()
    with pytest.raises(TrustError, match=r"has no 1.root.json"):
        read_release(workstation.folder / "cups")


@given(st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)), st.integers(1, 120))
def test_months_are_those_of_the_calendar(moment: datetime, months: int) -> None:
    found = later(moment, months)
    assert (found.year * 12 + found.month) - (moment.year * 12 + moment.month) == months
    assert found.day == moment.day or (found.day < moment.day and later(found.replace(day=1), 1).month != found.month)
    assert found.microsecond == 0


@pytest.mark.parametrize(
    ("version", "line"), [("0.1.0", ">=0.1,<0.2"), ("1.12.3", ">=1.12,<1.13"), ("0.9.0.dev3", ">=0.9,<0.10")]
)
def test_a_minor_line_is_what_promises_to_work_alike(version: str, line: str) -> None:
    assert minor_line(version) == line


def test_trust_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys\n"
        "sys.modules.update({name: None for name in ('torch', 'numpy', 'grpc', 'serial')})\n"
        "import pi0_edge.deploy.trust as trust\n"
        "print('tuf' in sys.modules)\n"
        "[getattr(trust, name) for name in trust.__all__]"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "False\n"), ran.stderr
