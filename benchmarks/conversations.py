"""Write the conversations that are shipped with the packaged model.

    python benchmarks/conversations.py     # some minutes

As a build writes them for any other model, but more, and with no task's questions.
"""

import json
import lzma

import click

from edgeprune.data.template import ChatTemplate
from edgeprune.models import open_checkpoint
from edgeprune.models.loading import load_tokenizer
from edgeprune.models.packaged import PACKAGED
from edgeprune.pipeline.conversations import written
from edgeprune.support.progress import Bars
from edgeprune.support.resources import data_file


@click.command()
@click.option("--turns", default=256, help="conversations that are begun")
def main(turns: int) -> None:
    name = "smollm2-135m"
    checkpoint = open_checkpoint(name)
    template = ChatTemplate.of(load_tokenizer(checkpoint))
    assert template
    assert checkpoint.gguf
    found = written(checkpoint.gguf, template, [], Bars(), turns)
    lines = [json.dumps({"messages": one}, ensure_ascii=False) for one in found]
    path = data_file(PACKAGED[name].conversations)
    path.write_bytes(lzma.compress("".join(f"{line}\n" for line in lines).encode(), preset=9))
    click.echo(f"{path}: {len(lines)} conversations, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
