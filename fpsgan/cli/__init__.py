"""The command line: reads options, calls the library, prints. Nothing else in fpsGAN prints.

Modules that take seconds to load (torch, Numba) are imported by the commands that need them, when they run.
"""

from __future__ import annotations

import io
import signal
import sys
from typing import Annotated

import typer

from fpsgan import __version__
from fpsgan.cli import facts, jobs, train, web
from fpsgan.cli.options import option, parse_rate, parse_time
from fpsgan.errors import FpsganError, OptionError

__all__ = ["app", "main", "parse_rate", "parse_time"]

WELCOME = f"""fpsGAN {__version__} turns a shaky, blurred or choppy video into a sharp, smooth one.

  fpsgan enhance holiday.mov -o better.mp4             sharpen blurred frames, raise the frame rate
  fpsgan interpolate jump.mp4 -o slow.mp4 --slowmo 4   only the frame rate: smoother, or slow motion
  fpsgan deblur photos/ -o sharp/                      only sharpen, photos or videos

Add --dry-run to see frames, time, memory and size first. `fpsgan demo` runs on a clip it renders itself; `fpsgan
doctor` checks this machine. `fpsgan --help` lists all commands, `fpsgan COMMAND --help` the options of one.
"""

app = typer.Typer(
    help="Turns a shaky, blurred or choppy video into a sharp, smooth one.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("enhance")(jobs.enhance_command)
app.command("interpolate")(jobs.interpolate_command)
app.command("deblur")(jobs.deblur_command)
app.command("stream")(jobs.stream_command)
app.command("probe")(facts.probe_command)
app.command("report")(train.report_command)
app.command("web")(web.web_command)
jobs_app = typer.Typer(
    help="List unfinished jobs; running the same command again resumes one.", invoke_without_command=True
)
jobs_app.callback()(facts.jobs_list)
jobs_app.command("clean")(facts.jobs_clean)
app.add_typer(jobs_app, name="jobs")
dataset_app = typer.Typer(help="Build training data from your own footage.", no_args_is_help=True)
dataset_app.command("build")(train.dataset_build_command)
app.add_typer(dataset_app, name="dataset")
app.command("train")(train.train_command)
app.command("evaluate")(train.evaluate_command)
weights_app = typer.Typer(help="List, inspect, verify and convert weights.", no_args_is_help=True)
weights_app.command("list")(facts.weights_list)
weights_app.command("show")(facts.weights_show)
weights_app.command("verify")(facts.weights_verify)
weights_app.command("convert")(facts.weights_convert)
app.add_typer(weights_app, name="weights")
app.command("export")(facts.export_command)
app.command("benchmark")(jobs.benchmark_command)
app.command("doctor")(facts.doctor_command)
app.command("demo")(jobs.demo_command)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, option("Print the version.", "--version")] = False,
    debug: Annotated[bool, option("Show tracebacks.", "--debug")] = False,
) -> None:
    if version:
        print(f"fpsgan {__version__}")
    elif context.invoked_subcommand is None:
        print(WELCOME, end="")
    else:
        return
    raise typer.Exit


def main() -> None:
    """Entry point: errors meant for users become one line and an exit code; --debug shows the traceback."""
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # even if a shell started us with SIGINT ignored
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.default_int_handler)
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")  # names need not be UTF-8
    try:
        app()
    except FpsganError as error:
        if debug:
            raise
        print(f"fpsgan: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, OptionError) else 1)
    except Exception as error:  # the last resort: still one line
        if debug:
            raise
        print(f"fpsgan: unexpected {type(error).__name__}: {error}; --debug shows where", file=sys.stderr)
        sys.exit(70)
