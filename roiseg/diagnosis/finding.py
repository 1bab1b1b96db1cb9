"""Findings of a check, and what to do about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from rich.table import Table
from rich.text import Text

from roiseg.common.console import console
from roiseg.config.entry import user_message

State = Literal["ok", "note", "warning", "error"]
_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    about: str
    state: State  # `error` prevents training, `warning` makes it slow or wrong, `note` is for information
    text: str
    # what to do; empty if there is nothing to do, or if the text contains it, as errors of roiseg do
    todo: str = ""
    # shown as a line below the table, so that the paths in it can be copied; errors always are
    unfolded: bool = False


@dataclass
class Diagnosis:
    """All findings in order, without duplicates."""

    findings: list[Finding] = field(default_factory=list)

    def add(self, *findings: Finding) -> None:
        """Add findings."""
        seen = {(finding.state, finding.text) for finding in self.findings}
        self.findings += [f for f in findings if (f.state, f.text) not in seen]

    @contextmanager
    def guard(self, about: str, state: State = "error") -> Iterator[None]:
        """Turn a mistake of the user inside the block into a finding, and continue."""
        try:
            yield
        except Exception as error:
            line = user_message(error)
            if line is None:
                raise
            self.add(Finding(about, state, line, unfolded=True))

    @property
    def can_start(self) -> bool:
        """Return whether nothing keeps training from starting."""
        return all(finding.state != "error" for finding in self.findings)

    def show(self) -> None:
        """Print a table, and below it the findings that name files and the errors, one per line."""
        table = Table(title="doctor", show_lines=False)
        for name in ("", "what", "found, and what to do"):
            table.add_column(name, overflow="fold")
        below = [f for f in self.findings if f.unfolded or f.state == "error"]
        for finding in self.findings:
            if finding not in below:
                todo = f"\n-> {finding.todo}" if finding.todo else ""
                style = _STYLES[finding.state]
                text = Text.assemble(finding.text, (todo, style))
                table.add_row(Text(finding.state, style), finding.about, text)
        console.print(table)
        for finding in sorted(below, key=lambda finding: finding.state == "error"):
            state = (finding.state, _STYLES[finding.state])
            todo = f" -> {finding.todo}" if finding.todo else ""
            console.print(Text.assemble(state, f" {finding.about}: {finding.text}{todo}"), soft_wrap=True)

    def content(self) -> dict[str, object]:
        """Return the findings for JSON."""
        keys = ("about", "state", "text", "todo")
        findings = [{key: getattr(finding, key) for key in keys} for finding in self.findings]
        return {"can_start": self.can_start, "findings": findings}
