"""web: the page, which offers the options of `enhance` as they are declared for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpsgan.cli.jobs import enhance_command
from fpsgan.cli.options import option
from fpsgan.cli.progress import tell
from fpsgan.errors import SetupError

if TYPE_CHECKING:
    from fpsgan.web.work import Field

# What the page decides itself, or must not offer.
NOT_ON_PAGE = {
    "sources", "input", "output", "confidence_map", "overwrite", "resume", "dry_run", "json", "benchmark", "quiet",
    "progress",
}  # fmt: skip


def web_command(
    host: Annotated[str, option("Address to listen on; anything but localhost needs --password.")] = "127.0.0.1",
    port: Annotated[int, option("Port; 0: any free one.")] = 8765,
    password: Annotated[
        str | None, option("Password for the page; safer as FPSGAN_PASSWORD.", envvar="FPSGAN_PASSWORD")
    ] = None,
    folder: Annotated[list[Path] | None, option("Clips in this folder may be opened by path; repeatable.")] = None,
    work: Annotated[Path | None, option("Folder for uploads, results and the queue (~/fpsgan-web).")] = None,
    max_upload: Annotated[float, option("Largest upload, in GB.")] = 8.0,
    browse: Annotated[bool, option("Open the page in a browser.", "--browse/--no-browse")] = True,
) -> None:
    """Serve a local web page: queue, preview, before and after. Ctrl-C stops it; its jobs resume next time."""
    try:
        from fpsgan.web.server import Settings, serve
    except ModuleNotFoundError as error:
        raise SetupError(f"`fpsgan web` needs {error.name}: pip install 'fpsgan[web]'") from error
    settings = Settings(
        work or Path.home() / "fpsgan-web", fields(), host=host, port=port, password=password,
        folders=tuple(folder or ()), largest=round(max_upload * 1e9),
    )  # fmt: skip
    serve(settings, on_ready=lambda address: tell(f"the page is at {address} (Ctrl-C stops it)"), browse=browse)


def fields() -> tuple[Field, ...]:
    """The options of `enhance`, as the page asks for them."""
    from fpsgan.web.work import Field, shipped

    app = typer.Typer(add_completion=False)
    app.command()(enhance_command)
    command = typer.main.get_command(app)
    context = typer.Context(command)
    # other weights would be other files of this machine
    weights = {"weights": shipped("interpolator"), "deblur_weights": shipped("deblur")}
    found = []
    for each in command.params:
        if not isinstance(each, typer.core.TyperOption) or each.name is None or each.name in {"help", *NOT_ON_PAGE}:
            continue
        choices = ("yes", "no") if each.secondary_opts else [item.value for item in each.shell_complete(context, "")]
        default = "" if each.default is None else str(each.default)
        panel, choices = each.rich_help_panel or "", weights.get(each.name, tuple(choices))
        found.append(Field(each.name, each.opts[0], each.help or "", panel, default, choices))
    return tuple(found)
