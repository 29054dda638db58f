"""Real text on every machine with Python: its language reference and its library's own words.

`pydoc_data.topics` ships with CPython (the language reference as text); module documentation
is read out of the standard library's sources. Cut into passages as a search application would.
"""

from __future__ import annotations

import ast
import inspect
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

SHORTEST, LONGEST = 400, 800

_MODULES = """
abc argparse ast asyncio/base_events asyncio/locks asyncio/queues asyncio/streams asyncio/tasks
base64 bisect calendar cmd codecs collections/__init__ compileall concurrent/futures/_base
concurrent/futures/thread configparser contextlib copy csv ctypes/util dataclasses datetime
difflib dis doctest email/message email/policy enum fileinput fnmatch fractions ftplib functools
gettext gzip hashlib heapq html/parser http/client http/cookiejar http/server imaplib inspect
ipaddress json/__init__ json/encoder locale logging/__init__ logging/config logging/handlers
mailbox mimetypes multiprocessing/pool nntplib optparse os pathlib pdb pickle pickletools
platform plistlib poplib pprint profile pydoc queue random re/__init__ sched secrets selectors
shelve shlex shutil smtplib socket socketserver ssl statistics string subprocess sysconfig
tarfile tempfile textwrap threading timeit trace traceback turtle typing unittest/case
unittest/mock urllib/parse urllib/request uuid warnings wave weakref xml/dom/minidom
xml/etree/ElementTree xmlrpc/client zipfile
"""


@dataclass(frozen=True, slots=True)
class Passage:
    """A few hundred characters of one document."""

    title: str
    section: str
    text: str


@lru_cache(maxsize=1)
def library() -> tuple[Passage, ...]:
    """All passages, read once; always the same ones, in the same order, on one Python version."""
    return tuple(
        Passage(title, section, piece)
        for title, section, text in _documents()
        for piece in cut(text)
    )


def _documents() -> Iterator[tuple[str, str, str]]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield name, "language", topics[name]
    library = Path(sysconfig.get_path("stdlib"))
    for module in _MODULES.split():
        source = library / f"{module}.py"
        if source.is_file():
            title = module.removesuffix("/__init__").replace("/", ".")
            yield title, "library", "\n\n".join(_docstrings(source))


def _docstrings(source: Path) -> Iterator[str]:
    tree = ast.parse(source.read_text(encoding="utf-8", errors="replace"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            words = ast.get_docstring(node, clean=False)
            if words and len(words) > 80:
                name = getattr(node, "name", source.stem)
                yield f"{name}: {inspect.cleandoc(words)}"


def cut(text: str) -> Iterator[str]:
    """Cut text into passages of about 400 to 800 characters, at blank lines where it can."""
    waiting = ""
    for paragraph in _paragraphs(text):
        if waiting and len(waiting) + len(paragraph) > LONGEST:
            yield waiting
            waiting = ""
        waiting = f"{waiting}\n\n{paragraph}" if waiting else paragraph
        if len(waiting) >= SHORTEST:
            yield waiting
            waiting = ""
    if len(waiting) > SHORTEST // 4:
        yield waiting


def _paragraphs(text: str) -> Iterator[str]:
    for raw in text.replace("\x00", "").split("\n\n"):
        paragraph = raw.strip("\n")
        while len(paragraph) > LONGEST:
            end = paragraph.rfind("\n", 0, LONGEST)
            if end < SHORTEST // 2:
                end = paragraph.rfind(" ", SHORTEST // 2, LONGEST)
            end = end if end > 0 else LONGEST
            yield paragraph[:end]
            paragraph = paragraph[end:].strip("\n")
        if paragraph.strip():
            yield paragraph
