"""Files of a transformers folder that artifacts take along."""

import shutil
from collections.abc import Iterable
from pathlib import Path

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)


def copy_files(names: Iterable[str], source: Path, target: Path) -> None:
    """Copy those of the files that are there from one folder to another."""
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
