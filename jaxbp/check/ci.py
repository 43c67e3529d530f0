"""A report for continuous integration: JUnit's XML, and GitHub's annotations at the line of the hand-written code."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from jaxbp.check.options import OptionsReport
from jaxbp.check.report import Leaf, Report
from jaxbp.core import Layer

Place = tuple[str, int] | None  # (file, line)


def junit(report: Report, place: Place) -> bytes:
    """The report as a JUnit file: a test case for every leaf and every law, those that were not asked skipped."""
    suite = ElementTree.Element("testsuite", name=f"gradient check of {report.name}")
    for title, part in _parts(report):
        for leaf in part.leaves:
            case = _case(suite, title, leaf.path, place)
            if not leaf.passed:
                ElementTree.SubElement(case, "failure", message=_cause(leaf)).text = str(part)
            elif leaf.verdict == "not checked":
                ElementTree.SubElement(case, "skipped", message="not checked: nothing but kinks")
        for finding in part.findings:
            case = _case(suite, title, finding.method, place)
            if finding.passed is None:
                ElementTree.SubElement(case, "skipped", message=finding.text)
            elif not finding.passed:
                ElementTree.SubElement(case, "failure", message=finding.text).text = str(part)
    for kind in ("failure", "skipped"):
        suite.set({"failure": "failures"}.get(kind, kind), str(sum(case.find(kind) is not None for case in suite)))
    suite.set("tests", str(len(suite)))
    return ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)


def _case(suite: ElementTree.Element, title: str, name: str, place: Place) -> ElementTree.Element:
    where = {"file": place[0], "line": str(place[1])} if place else {}
    return ElementTree.SubElement(suite, "testcase", {"classname": title, "name": name} | where)


def github(report: Report, place: Place) -> list[str]:
    """One line for every leaf and every law that fails, which GitHub shows at the place in the change under review.

    Of settings that fail, the shortest ones have their lines.
    """
    where = f"file={place[0]},line={place[1]}," if place else ""
    lines = []
    for title, part in _parts(report, shortest=True):
        wrong = [f"{leaf.path}: {_cause(leaf)}" for leaf in part.leaves if not leaf.passed]
        wrong += [f"{finding.method}: {finding.text}" for finding in part.findings if finding.passed is False]
        lines += [f"::error {where}title={_escaped(title, ',:')}::{_escaped(text)}" for text in wrong]
    return lines


def _escaped(text: str, more: str = "") -> str:
    """What GitHub's commands cannot hold, as they want it. more: further signs, in a title."""
    for sign in f"%\r\n{more}":
        text = text.replace(sign, f"%{ord(sign):02X}")
    return text


def _parts(report: Report, shortest: bool = False) -> Iterator[tuple[str, Report]]:
    """(title, report) of every setting of the options, or of the shortest that fail; or of the report itself."""
    if not isinstance(report, OptionsReport):
        yield f"gradient check of {report.name}", report
        return
    for setting in report.settings:
        if setting.report is not None and (setting.shortest or not shortest):
            yield f"gradient check of {report.name} with {setting}", setting.report


def _cause(leaf: Leaf) -> str:
    return f"likely cause: {leaf.causes[0]}" if leaf.causes else "wrong"


def place_of(code: Any) -> Place:
    """Where the hand-written part of a function, a layer or a module begins, relative to the current folder."""
    rule = getattr(code, "bwd", None) or getattr(code, "jvp", None)
    if isinstance(code, functools.partial):
        return place_of(code.func)
    if isinstance(code, Layer) or (isinstance(code, type) and hasattr(code, "backward")):
        rule = code.backward
    rule = rule or (code if inspect.isroutine(code) or isinstance(code, type) else type(code))
    try:
        file, (_, line) = inspect.getsourcefile(inspect.unwrap(rule)), inspect.getsourcelines(inspect.unwrap(rule))
    except (OSError, TypeError):  # code that is in no file
        return None
    return (os.path.relpath(file), max(line, 1)) if file else None
