"""Pictures of a build for the README: its report in Chromium, its summary on a terminal.

    python benchmarks/screenshots.py builds/medqa-smollm2-135m-alps_fast-mix-50pct-q8_0

Writes report.png (light), report-dark.png, report-phone.png and terminal.svg to docs/images.
Needs Debian's `chromium`.
"""

import subprocess
import sys
from pathlib import Path

import click
from rich.console import Console

from edgeprune.cli.summary import print_summary
from edgeprune.manifest import read

_PAGES = {
    "report.png": ((820, 1500), ()),
    "report-dark.png": ((820, 1500), ("--blink-settings=preferredColorScheme=0",)),
    "report-phone.png": ((500, 1500), ()),  # as narrow as headless Chromium gets
}


@click.command()
@click.argument("build", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/images"))
def main(build: Path, out: Path) -> None:
    for name, (size, options) in _PAGES.items():
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--screenshot={out / name}", "--window-size={},{}".format(*size), *options]
        page = (build / "report.html").resolve().as_uri()
        subprocess.run([*command, page], check=True, stderr=subprocess.DEVNULL)
        click.echo(out / name)
    console = Console(record=True, width=110, highlight=False, soft_wrap=False, file=sys.stderr)
    manifest = read(build)
    print_summary(manifest, build, console)
    console.save_svg(
        str(out / "terminal.svg"),
        title=f"edgeprune build --task {manifest.data.task.name}",
    )
    click.echo(out / "terminal.svg")


if __name__ == "__main__":
    main()
