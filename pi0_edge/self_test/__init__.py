"""The self-test of a bundle: is this machine right and fast enough for this policy, before it moves a robot?

| module     | is                                                                             |
|------------|--------------------------------------------------------------------------------|
| `answers`  | who answers: the engine of this process, or a policy server                    |
| `accuracy` | the bundle's own vectors, judged with the thresholds of its own accuracy gate  |
| `latency`  | chunks timed one after the other, and percentiles that their number can bear   |
| `report`   | what was found                                                                 |
| `running`  | all of it together                                                             |

Nothing is compared bit by bit: another processor takes other kernels, and its chunks differ by as much as those of
another scheme do. What the gate tolerated of the quantization, the self-test tolerates of quantization and machine.
"""

from pi0_edge.self_test.report import Finding, SelfTestReport
from pi0_edge.self_test.running import run_self_test

__all__ = ["Finding", "SelfTestReport", "run_self_test"]
