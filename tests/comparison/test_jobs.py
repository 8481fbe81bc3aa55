"""Jobs: what is done stays done, and what fails or is killed is told."""

from __future__ import annotations

import os
import signal
import time

import pytest

from pi0_edge.comparison.jobs import Job, Workers
from pi0_edge.errors import ConfigError, TrainingError

pytestmark = pytest.mark.system


def note(path, text):
    path.write_text(text)


def fail(path):
    raise ConfigError("not possible")


def die(path):
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(path):
    path.with_suffix(".pid").write_text(str(os.getpid()))
    time.sleep(120)


def fail_beside(path, other):
    while not (other.exists() and other.read_text()):
        time.sleep(0.01)
    raise ConfigError("not possible")


def threads(path):
    import torch

    path.write_text(f"{os.environ['OMP_NUM_THREADS']} {torch.get_num_threads()} {os.getpid()}")


def job(path, expected=1.0, work=note, *more):
    return Job(path.name, path, expected, work, (path, *more))


def test_the_longest_goes_first_and_what_is_there_is_not_done_again(tmp_path):
    (tmp_path / "b").write_text("old")
    jobs = [job(tmp_path / name, seconds, note, "new") for name, seconds in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
    done = []
    with Workers(0) as workers:
        workers.run(jobs, lambda one: done.append(one.name))
        workers.run(jobs, lambda one: done.append(one.name))
    assert done == ["c", "a"]
    assert (tmp_path / "b").read_text() == "old" and all(one.done for one in jobs)


def test_after_a_failure_the_rest_can_be_done(tmp_path):
    jobs = [job(tmp_path / "a", 3.0, note, ""), job(tmp_path / "b", 2.0, fail), job(tmp_path / "c", 1.0, note, "")]
    done = []
    with pytest.raises(ConfigError, match="not possible"), Workers(0) as workers:
        workers.run(jobs, lambda one: done.append(one.name))
    assert done == ["a"] and not (tmp_path / "c").exists()


def test_processes_have_one_thread_and_live_for_several_stages(tmp_path):
    before = os.environ.get("OMP_NUM_THREADS")
    with Workers(1) as workers:
        workers.run([job(tmp_path / "a", 1.0, threads)], lambda one: None)
        workers.run([job(tmp_path / "b", 1.0, threads)], lambda one: None)
        first, second = ((tmp_path / name).read_text().split() for name in "ab")
        assert first == second and first[:2] == ["1", "1"] and int(first[2]) != os.getpid()
        with pytest.raises(TrainingError, match=r"killed.*once there is more memory"):
            workers.run([job(tmp_path / "c", 1.0, die)], lambda one: None)
    assert os.environ.get("OMP_NUM_THREADS") == before


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_an_error_does_not_wait_for_the_jobs_beside_it(tmp_path):
    pid, begin = tmp_path / "long.pid", time.monotonic()
    jobs = [job(tmp_path / "long", 2.0, sleep), job(tmp_path / "b", 1.0, fail_beside, pid)]
    with pytest.raises(ConfigError, match="not possible"), Workers(2) as workers:
        workers.run(jobs, lambda one: None)
    assert time.monotonic() - begin < 60 and is_gone(int(pid.read_text()))


def test_ctrl_c_ends_the_jobs(tmp_path):
    pid, begin = tmp_path / "long.pid", time.monotonic()

    def interrupt(one):
        while not pid.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)  # until the signal has come

    jobs = [job(tmp_path / "a", 2.0, note, ""), job(tmp_path / "long", 1.0, sleep)]
    with pytest.raises(KeyboardInterrupt), Workers(2) as workers:
        workers.run(jobs, interrupt)
    assert time.monotonic() - begin < 60 and is_gone(int(pid.read_text()))
