"""Assembles the commands, and turns every error that is meant for people into one line and an exit code.

| exit code | meaning                                     |
|-----------|---------------------------------------------|
| 0         | done                                        |
| 1         | the check, gate or evaluation failed        |
| 2         | bad input or usage; the message says which  |
| 3 to 6    | how `run` ended, see docs/run.md            |
| 7         | `serve` ended itself: its chunks were late  |
| 130       | Ctrl-C                                      |
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from pi0_edge.cli.bench import bench
from pi0_edge.cli.bridge import bridge
from pi0_edge.cli.bundle import bundle
from pi0_edge.cli.calibrate import calibrate
from pi0_edge.cli.cameras import cameras
from pi0_edge.cli.certificates import certificates
from pi0_edge.cli.compare_heads import compare_heads
from pi0_edge.cli.convert import convert
from pi0_edge.cli.demo import demo
from pi0_edge.cli.distill import distill
from pi0_edge.cli.doctor import doctor
from pi0_edge.cli.estimate import estimate
from pi0_edge.cli.evaluate import evaluate
from pi0_edge.cli.export import export
from pi0_edge.cli.flash import flash
from pi0_edge.cli.infer import infer
from pi0_edge.cli.keys import keys
from pi0_edge.cli.merge import merge
from pi0_edge.cli.output import write_error
from pi0_edge.cli.quantize import quantize
from pi0_edge.cli.record import record
from pi0_edge.cli.recording import recording
from pi0_edge.cli.release import release
from pi0_edge.cli.replay import replay
from pi0_edge.cli.robot import robot
from pi0_edge.cli.run import run
from pi0_edge.cli.self_test import self_test
from pi0_edge.cli.serve import serve
from pi0_edge.cli.train import train
from pi0_edge.cli.verify import verify
from pi0_edge.errors import Pi0EdgeError
from pi0_edge.installed_packages import foreign_fault

BAD_INPUT = 2
INTERRUPTED = 130

_COMMANDS = (
    demo,
    doctor,
    cameras,
    estimate,
    evaluate,
    infer,
    calibrate,
    quantize,
    export,
    convert,
    merge,
    verify,
    self_test,
    record,
    train,
    distill,
    compare_heads,
    serve,
    bridge,
    run,
    replay,
)
_EXTRAS = {
    "policy": ("torch", "safetensors", "PIL", "tokenizers", "sentencepiece"),
    "bridge": ("serial", "grpc", "grpc_health", "grpc_reflection", "google", "prometheus_client"),
    "sim": ("mujoco", "dm_control", "gym_aloha", "gymnasium"),
    "train": ("pyarrow", "av", "matplotlib"),
    "recording": ("mcap", "mcap_protobuf"),
    "orbax": ("tensorstore",),
    "realsense": ("pyrealsense2",),
    "signing": ("cryptography",),
    "deploy": ("tuf", "securesystemslib"),
    "tensorrt": ("onnx", "onnxscript"),
    "openvino": ("openvino",),
    "openpi": ("websockets", "msgpack"),
}
# typer brings its own copy of click in some versions and uses the installed one in others.
_UsageError: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

app = typer.Typer(name="pi0-edge", no_args_is_help=True, pretty_exceptions_enable=False)
for command in _COMMANDS:
    app.command(command.__name__.replace("_", "-"))(command)
app.add_typer(bench, name="bench")
app.add_typer(bundle, name="bundle")
app.add_typer(certificates, name="certificates")
app.add_typer(flash, name="flash")
app.add_typer(keys, name="keys")
app.add_typer(release, name="release")
app.add_typer(robot, name="robot")
app.add_typer(recording, name="recording")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(version("pi0-edge"))
        raise typer.Exit


@app.callback()
def pi0_edge(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens to standard error.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """π0 and π0.5 on the robot itself, from camera image to timer interrupt."""
    level = logging.DEBUG if verbose else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: What stands after `pi0-edge`; those of this process where None.

    Returns:
        The exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C library would print beside our own messages
    try:
        code = typer.main.get_command(app).main(given, prog_name="pi0-edge", standalone_mode=False)
    except Pi0EdgeError as error:
        return write_error(str(error), given, BAD_INPUT)
    except ModuleNotFoundError as error:
        return write_error(_missing_module(error), given, BAD_INPUT)
    except _UsageError as error:
        return write_error(_usage(error), given, BAD_INPUT)
    except Exception as error:
        if (fault := foreign_fault(error)) is None:
            raise
        logging.getLogger(__name__).debug("what another package said", exc_info=error)
        return write_error(fault, given, BAD_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # some versions of typer turn Ctrl-C into this code themselves
        return write_error("interrupted", given, INTERRUPTED)
    return code if isinstance(code, int) else 0


def _missing_module(error: ModuleNotFoundError) -> str:
    """What to install; raises `error` again where the module is our own mistake."""
    name = (error.name or "").partition(".")[0]
    extra = next((extra for extra, modules in _EXTRAS.items() if name in modules), None)
    if extra is None:
        raise error
    return f"the Python package {name} is not installed, and this command needs it: pip install 'pi0-edge[{extra}]'"


def _usage(error: Exception) -> str:
    message: str = getattr(error, "format_message")()  # noqa: B009
    context = getattr(error, "ctx", None)
    return message if context is None else f"{message}\n{context.get_usage()}\nTry `{context.command_path} --help`."
