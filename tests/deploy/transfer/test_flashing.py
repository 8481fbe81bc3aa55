"""A release arrives whole however often the link dies, and what is there is not sent again."""

from __future__ import annotations

import random
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bad_link import Link
from receiving_robot import STAGING, Receiver
from unsigned_releases import shards, write_release

from pi0_edge.deploy.session import RobotBusyError
from pi0_edge.deploy.transfer import flashing
from pi0_edge.deploy.transfer.ssh import OPTIONS, LinkLostError
from pi0_edge.errors import BundleError, DeployError

pytestmark = [pytest.mark.real_time, pytest.mark.system]

MB = 1_000_000


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flashing, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(flashing, "LONGEST_WAIT_S", 0.1)


def whole(receiver: Receiver, bundle: Path, sha256: str) -> bool:
    staged = receiver.staged(sha256)
    return {f"bundle/{file.name}": file.read_bytes() for file in bundle.iterdir()}.items() <= staged.items()


def test_a_release_arrives_and_is_installed(receiver: Receiver, tmp_path: Path) -> None:
    bundle = tmp_path / "cups and saucers"
    sha256 = write_release(bundle, shards(3 * MB, 1 * MB, 0))
    result = receiver.host().flash(bundle, budget_ms=80.0)
    assert (result.state, result.release, result.connections) == ("committed", sha256[:16], 1)
    assert result.bytes_needed == 4 * MB
    assert result.bytes_sent is not None and 4 * MB < result.bytes_sent < 4.2 * MB
    assert result.answer["budget_ms"] == 80.0
    assert whole(receiver, bundle, sha256)
    assert any(reason == "send: 3 files of 4.0 MB; the release has 4.0 MB" for reason in receiver.reasons)
    sending = [progress for progress in receiver.progress if progress.stage == "sending"]
    assert (sending[0].done, sending[-1].done, sending[-1].total) == (0, 4 * MB, 4 * MB)
    assert "4.0 MB of 4.0 MB" in sending[-1].note


def test_the_same_again_sends_nothing(receiver: Receiver, tmp_path: Path) -> None:
    sha256 = write_release(tmp_path / "cups", shards(2 * MB))
    receiver.host().flash(tmp_path / "cups")
    again = receiver.host().flash(tmp_path / "cups", commit=False)
    assert (again.state, again.release, again.bytes_needed) == ("trial", sha256[:16], 0)
    assert again.bytes_sent is not None and again.bytes_sent < 50_000


def test_cuts_at_random_bytes_neither_tear_nor_repeat(receiver: Receiver, tmp_path: Path) -> None:
    """The link dies at 3 random bytes; rsync goes on in the file where it stopped."""
    numbers = random.Random(12)
    bundle = tmp_path / "cups"
    sha256 = write_release(bundle, shards(9 * MB, 7 * MB))
    cuts = [numbers.randrange(5_000, 2 * MB), *(numbers.randrange(3 * MB, 6 * MB) for _ in range(2))]
    before = len(receiver.container.carried())
    receiver.container.set_links(*(Link(cut_after=cut) for cut in cuts), Link())
    result = receiver.host().flash(bundle)
    assert result.state == "committed" and whole(receiver, bundle, sha256)
    carried = receiver.container.carried()[before:]
    assert carried[:3] == cuts and result.connections == 4
    # What a dead link swallows was on its way: ssh's window is 2 MB, and rsync writes in pieces of 256 kB.
    assert sum(carried) < 16.3 * MB + sum(min(cut, 2.4 * MB) for cut in cuts), (cuts, carried)
    assert result.bytes_sent is not None and sum(carried) <= result.bytes_sent


@pytest.mark.slow
def test_fifty_cuts_at_random_bytes(receiver: Receiver, tmp_path: Path) -> None:
    numbers = random.Random(50)
    bundle = tmp_path / "cups"
    sha256 = write_release(bundle, shards(2 * MB, 1 * MB))
    for _ in range(50):
        receiver.forget()
        receiver.container.set_links(Link(cut_after=numbers.randrange(1, 3_050_000)), Link())
        try:
            result = receiver.host().flash(bundle)
        except LinkLostError:  # cut before the login: the first connection is not made again
            result = receiver.host().flash(bundle)
        assert result.state == "committed" and whole(receiver, bundle, sha256)


def test_a_link_that_hangs_is_given_up_and_made_again(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPTIONS, "ServerAliveInterval", "1")
    monkeypatch.setitem(OPTIONS, "ServerAliveCountMax", "1")
    bundle = tmp_path / "cups"
    sha256 = write_release(bundle, shards(2 * MB))
    receiver.container.set_links(Link(cut_after=1 * MB, stall=True), Link())
    begin = time.monotonic()
    result = receiver.host().flash(bundle)
    assert time.monotonic() - begin < 20
    assert (result.state, result.connections) == ("committed", 2) and whole(receiver, bundle, sha256)
    assert any("not responding" in reason for reason in receiver.reasons), receiver.reasons


def test_a_robot_that_loses_its_power_goes_on_afterwards(receiver: Receiver, tmp_path: Path) -> None:
    bundle = tmp_path / "cups"
    sha256 = write_release(bundle, shards(6 * MB))
    receiver.container.set_links(Link(rate=3 * MB))

    def cut() -> None:
        time.sleep(1.2)
        receiver.container.cut()
        receiver.container.set_links(Link())
        receiver.container.start()

    thread = threading.Thread(target=cut)
    thread.start()
    result = receiver.host().flash(bundle)
    thread.join()
    assert result.connections > 1 and whole(receiver, bundle, sha256)
    assert result.bytes_sent is not None and result.bytes_sent < 9 * MB


def test_the_deadline_ends_it_and_says_how_to_go_on(receiver: Receiver, tmp_path: Path) -> None:
    write_release(tmp_path / "cups", shards(2 * MB))
    receiver.container.set_links(Link(cut_after=200_000))
    with pytest.raises(LinkLostError, match=r"not again within 1 s: run the command again, it goes on from here"):
        receiver.host().flash(tmp_path / "cups", deadline_s=1.0)


def test_a_robot_that_is_off_is_said_at_once(receiver: Receiver, tmp_path: Path) -> None:
    write_release(tmp_path / "cups", shards(10))
    receiver.container.set_links(Link(cut_after=1))
    with pytest.raises(LinkLostError, match="robot cannot be reached"):
        receiver.host().flash(tmp_path / "cups")


def test_a_damaged_file_on_the_robot_is_mended_by_its_blocks(receiver: Receiver, tmp_path: Path) -> None:
    """Size and date are right, as after a power cut that lost blocks."""
    bundle = tmp_path / "cups"
    sha256 = write_release(bundle, shards(4 * MB))
    receiver.host().flash(bundle)
    file = f"{STAGING}/{sha256}/bundle/weights-i8-00000.safetensors"
    receiver.container.run(f"dd if=/dev/zero of={file} bs=4096 seek=100 count=1 conv=notrunc")
    result = receiver.host().flash(bundle)
    assert whole(receiver, bundle, sha256)
    assert result.bytes_needed == 4 * MB and result.bytes_sent is not None and result.bytes_sent < 200_000


def test_blocks_of_the_running_release_are_not_sent_and_it_stays_as_it_is(receiver: Receiver, tmp_path: Path) -> None:
    old, new = shards(4 * MB), shards(4 * MB)
    name = next(iter(new))
    new[name] = new[name][:MB] + bytes(1000) + new[name][MB + 1000 :]
    basis = f"{STAGING}/.basis/bundle"
    receiver.container.run(f"install -d {basis} && cat > {basis}/{name}.hex", stdin=old[name].hex())
    receiver.container.run(
        f"python3 -c \"import pathlib; p = pathlib.Path('{basis}/{name}'); "
        f"p.write_bytes(bytes.fromhex(p.with_name(p.name + '.hex').read_text()))\" && chmod 444 {basis}/*"
    )
    bundle = tmp_path / "cups"
    sha256 = write_release(bundle, new)
    result = receiver.host().flash(bundle)
    assert result.bytes_sent is not None and result.bytes_sent < 200_000
    assert whole(receiver, bundle, sha256)
    assert receiver.container.path(f"{basis}/{name}").read_bytes() == old[name]


def test_the_bandwidth_limit_holds(receiver: Receiver, tmp_path: Path) -> None:
    write_release(tmp_path / "cups", shards(2 * MB))
    begin = time.monotonic()
    receiver.host().flash(tmp_path / "cups", bwlimit_kbps=1000)
    assert time.monotonic() - begin > 1.5
    notes = [progress.note for progress in receiver.progress if progress.stage == "sending"]
    assert any(" MB/s, 0:0" in note for note in notes), notes


def test_two_at_once_are_told_apart(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flashing, "BUSY_S", 0.5)
    monkeypatch.setattr(flashing, "BUSY_WAIT_S", 0.3)
    first, second = tmp_path / "cups", tmp_path / "forks"
    sha256 = write_release(first, shards(4 * MB))
    write_release(second, shards(1 * MB, seed=1))
    with ThreadPoolExecutor(1) as pool:
        flash = pool.submit(receiver.host().flash, first, bwlimit_kbps=1000)
        while not any("weights" in name for name in receiver.staged(sha256)):
            time.sleep(0.05)
        with pytest.raises(RobotBusyError, match="another session"):
            receiver.host().flash(second)
        assert receiver.host().status() == {"current": None}
        assert flash.result().state == "committed" and whole(receiver, first, sha256)


def test_a_session_that_the_robot_still_believes_in_is_waited_for(receiver: Receiver, tmp_path: Path) -> None:
    write_release(tmp_path / "cups", shards(100))
    lock = "/home/pi0-flash/lock"
    receiver.container.run(f"nohup flock {lock} sleep 3 > /dev/null 2>&1 &")
    result = receiver.host().flash(tmp_path / "cups")
    assert result.state == "committed" and result.connections > 1
    assert any("another session flashes this robot" in reason for reason in receiver.reasons)


def test_what_is_no_release_is_refused_before_anything_is_sent(receiver: Receiver, tmp_path: Path) -> None:
    before = receiver.container.carried()
    bundle = tmp_path / "cups"
    write_release(bundle, shards(1000, 2000))
    weights = bundle / "weights-i8-00001.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    with pytest.raises(BundleError, match=r"weights-i8-00001.safetensors .* has another size"):
        receiver.host().flash(bundle)
    weights.unlink()
    (tmp_path / "elsewhere").write_bytes(content)
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="is missing or no plain file"):
        receiver.host().flash(bundle)
    weights.unlink()
    weights.write_bytes(content)
    shutil.rmtree(tmp_path / "cups.release")
    with pytest.raises(DeployError, match=r"has no signed statement .* release sign"):
        receiver.host().flash(bundle)
    assert receiver.container.carried() == before


def test_the_other_verbs_are_passed_on(receiver: Receiver) -> None:
    host = receiver.host()
    assert host.commit()["verb"] == "commit" and host.gc()["verb"] == "gc"
    assert host.rollback("drops cups")["reason"] == "drops cups"
    assert host.history(1) == [{"event": "booted"}]
