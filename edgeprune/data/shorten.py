"""Cut long inputs to the sentences that matter, by patterns or by BM25 against the question.

This file needs nothing but Python: `edgeprune tasks NAME --preprocess` prints it with a task's
settings at its end, for applications to use.
"""

import math
import re
from collections import Counter
from typing import Any

# Okapi BM25's usual constants (Robertson and Zaragoza, 2009, doi 10.1561/1500000019).
_K1, _B = 1.5, 0.75
_SENTENCE_ENDS = re.compile(r"(?<=[.!?;])\s+(?=[\"'(\[]?[A-Z0-9])|\n+")
_SHORT = 40  # words of a line in a message that is no input to cut, but asks


def shorten(text: str, question: str, words: int, patterns: tuple[str, ...] = ()) -> str:
    """Keep the sentences of a text that matter most, in their order.

    Args:
        text: what to cut.
        question: what sentences are held against.
        words: most words that are kept; a text of no more is left as it is.
        patterns: regular expressions, without case; sentences with more matches come first, and
            BM25 decides among equal ones.

    Returns:
        The kept sentences, joined by spaces. Of one sentence that is too long, the beginning.
    """
    if len(text.split()) <= words:
        return text
    sentences = [one.strip() for one in _SENTENCE_ENDS.split(text) if one.strip()]
    relevance = _bm25(sentences, question)
    matches = [sum(len(re.findall(p, s, re.IGNORECASE)) for p in patterns) for s in sentences]
    order = sorted(range(len(sentences)), key=lambda n: (-matches[n], -relevance[n], n))
    kept, room = set[int](), words
    for number in order:
        size = len(sentences[number].split())
        if size <= room:
            kept.add(number)
            room -= size
    if not kept:
        return " ".join(sentences[order[0]].split()[:words])
    return " ".join(sentences[number] for number in sorted(kept))


def shorten_message(message: str, words: int, patterns: tuple[str, ...] = ()) -> str:
    """Cut the long lines of a message; its short lines ask the question, and stay.

    Of a message without a short line, the last sentence is the question.
    """
    if len(message.split()) <= words:
        return message
    lines, most = message.splitlines(), min(_SHORT, words)
    long = [line for line in lines if len(line.split()) > most]
    short = "\n".join(line for line in lines if len(line.split()) <= most)
    if not short.strip():
        *before, short = _SENTENCE_ENDS.split(message.strip())
        return f"{shorten(' '.join(before), short, words, patterns)}\n{short}"
    cut = shorten("\n".join(long), short, words, patterns)
    done, kept = False, []
    for line in lines:
        if line not in long:
            kept.append(line)
        elif not done:
            kept.append(cut)
            done = True
    return "\n".join(kept)


def _bm25(sentences: list[str], question: str) -> list[float]:
    """Score sentences by Okapi BM25, with the text's own sentences as the collection."""
    bags = [Counter(_terms(sentence)) for sentence in sentences]
    average = sum(bag.total() for bag in bags) / len(bags) or 1.0
    asked = set(_terms(question))
    holding = {term: sum(term in bag for bag in bags) for term in asked}
    rare = {t: math.log(1 + (len(bags) - n + 0.5) / (n + 0.5)) for t, n in holding.items()}

    def score(bag: Counter[str]) -> float:
        base = _K1 * (1 - _B + _B * bag.total() / average)
        return sum(rare[t] * bag[t] * (_K1 + 1) / (bag[t] + base) for t in sorted(asked))

    return [score(bag) for bag in bags]


def _terms(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def exported(words: int, patterns: tuple[str, ...]) -> str:
    """Return this file with settings of its own, without what only edgeprune needs of it."""
    from pathlib import Path

    source = Path(__file__).read_text(encoding="utf-8")
    body = source.partition("\n\ndef exported(")[0].replace("from typing import Any\n", "")
    settings: dict[str, Any] = {"words": words, "patterns": patterns}
    return f"{body}\n\n{_TAIL.format(settings=settings)}"


_TAIL = """SETTINGS = {settings!r}

if __name__ == "__main__":
    import sys

    print(shorten_message(sys.stdin.read(), **SETTINGS))
"""
