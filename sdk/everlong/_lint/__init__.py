"""Reads users' source for what decoration cannot see: `everlong lint`.

Nothing is imported or run. `modules` finds what names stand for, over files; `reach` follows the
workflows and activities into the functions that they call; each module beside them looks for one
kind of mistake there. A finding is told only where the source shows it: what hides behind an
object whose kind is unknown, nobody here guesses.
"""

from everlong._lint.check import lint
from everlong._lint.findings import RULES, Finding, Rule, Unreadable

__all__ = ["RULES", "Finding", "Rule", "Unreadable", "lint"]
