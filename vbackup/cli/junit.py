"""JUnit files: how CI systems show what was checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from vbackup import redact
from vbackup.errors import Failed


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that was checked. `failure` is what was found wrong, `error` why it could not
    be checked, `skipped` why it need not be; all are empty when it was good."""

    name: str
    seconds: float = 0.0
    failure: str = ""
    error: str = ""
    skipped: str = ""


def write(path: Path, suite: str, cases: Sequence[Case]) -> None:
    """Write one suite. Raises Failed."""
    total = f"{sum(case.seconds for case in cases):.3f}"
    root = Element("testsuites")
    element = SubElement(
        root,
        "testsuite",
        name=suite,
        tests=str(len(cases)),
        failures=str(sum(1 for case in cases if case.failure)),
        errors=str(sum(1 for case in cases if case.error)),
        skipped=str(sum(1 for case in cases if case.skipped)),
        time=total,
    )
    for case in cases:
        _add(element, suite, case)
    indent(root)
    try:
        ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise Failed(f"cannot write {path}: {error.strerror}") from None


def _add(suite: Element, name: str, case: Case) -> None:
    element = SubElement(
        suite, "testcase", classname=name, name=case.name, time=f"{case.seconds:.3f}"
    )
    for kind in ("failure", "error", "skipped"):
        if said := getattr(case, kind):
            text = _printable(redact.scrub(said))
            SubElement(element, kind, message=text.splitlines()[0]).text = text


def _printable(text: str) -> str:
    """XML has no place for most control characters, whatever a key may hold."""
    return "".join(c if c in "\t\n" or c >= " " else "\N{REPLACEMENT CHARACTER}" for c in text)
