"""The fourteen things that must always hold, what holds each, and what nobody has tested.

Plain tables, written by hand: the page says what stands here, and the figures come from the lines.
A sentence about a mechanism names what is in the code today. What is planned is named as missing.
"""

from dataclasses import dataclass
from typing import Final

__all__ = ["INVARIANTS", "NOT_COVERED", "Invariant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Invariant:
    number: int
    says: str
    """The promise, as a sentence."""
    held_by: str | None
    """The mechanism, in one sentence; None where nothing is built yet."""
    lacks: str | None = None
    """The half of the promise that has nothing behind it yet."""


INVARIANTS: Final = (
    Invariant(
        number=1,
        says="Each place in a run's history is taken by one event, without gaps, and that event "
        "never changes.",
        held_by="An append moves the run's next number on by compare-and-set before it inserts; "
        "the primary key (run, number) is the second guard, and a trigger refuses every UPDATE "
        "of the history.",
    ),
    Invariant(
        number=2,
        says="What was acknowledged is still there after kill -9 and after a power cut.",
        held_by="An acknowledgement waits for its COMMIT, and SQLite runs with WAL and "
        "`synchronous=FULL`.",
        lacks="Changes of schedules do not exist yet. With "
        '`durability="relaxed"` a power cut may lose the last moments, as its name says.',
    ),
    Invariant(
        number=3,
        says="What was not acknowledged may be repeated: the same request id gives the same "
        "result and at most one effect.",
        held_by="The answer to a request is a row of its own, written in the transaction that "
        "accepts it; a start finds its run by an index over request ids. Approvals and tokens of "
        "activities keep their first answer, and what knows it again.",
    ),
    Invariant(
        number=4,
        says="The outcome of an activity is recorded at most once, attempts and delays keep to "
        "the policy, and a late completion of a lost attempt is refused.",
        held_by="An outcome is an append under the owner's lease token, so a second one, or one "
        "of a worker that lost the run, misses the compare-and-set.",
    ),
    Invariant(
        number=5,
        says="Once a newer lease token is granted, no append with an older one is accepted.",
        held_by="Claim, takeover and termination each add one to the token, and every append "
        "names the token that it was made under.",
    ),
    Invariant(
        number=6,
        says="A timer fires once, never early by the store's clock, and once after a time "
        "without workers.",
        held_by="There is no table of timers: what is pending follows from the history, so a "
        "fired timer is an event and cannot fire again; it is due by the clock whose time the "
        "history carries.",
    ),
    Invariant(
        number=7,
        says="A replay of any part of a history makes the recorded decisions, in any process.",
        held_by="Workflow code runs on a loop of its own with numbered tasks, seeded chance and "
        "the time of the last input, and every decision is compared with the recorded one; a "
        "difference blocks the run and appends nothing.",
    ),
    Invariant(
        number=8,
        says="A signal is delivered once, in the order of the journal, and none is lost when a "
        "run ends, begins anew or changes hands.",
        held_by="A signal lies in the execution's inbox until the append that feeds it deletes "
        "exactly that row, and a closing append is refused over mail that its owner has not "
        "seen.",
    ),
    Invariant(
        number=9,
        says="A cancellation is delivered once and its clean-up is durable; after a termination "
        "nothing follows; a dropped run does nothing.",
        held_by="A request to cancel is an input like any other, a termination moves the lease "
        "token on, and every way to drop a run is one function under which every call of "
        "Everlong raises.",
    ),
    Invariant(
        number=10,
        says="Queries, validators and logs change nothing.",
        held_by="They run with the workflow's loop unset and a throw-away source of chance, and "
        "every call that would decide something raises.",
    ),
    Invariant(
        number=11,
        says="A tick of a schedule starts at most one execution, with any number of schedulers.",
        held_by=None,
        lacks="Schedules do not exist yet. Nothing holds this, and nothing can break it.",
    ),
    Invariant(
        number=12,
        says="Limits of concurrency and of rate are never exceeded, and a crash leaks no permit.",
        held_by=None,
        lacks="Limits over several runs do not exist yet. Nothing holds this, and nothing can "
        "break it.",
    ),
    Invariant(
        number=13,
        says="A run, payload or message that kills its worker stops nobody else, and when the "
        "faults stop everything goes on.",
        held_by="A run whose worker died twice in a row is driven alone under a mark in the "
        "store, and only a death under that mark counts; three of them park the run, visible "
        "and resumable.",
    ),
    Invariant(
        number=14,
        says="An error of the store is never an acknowledgement, never half an append, and "
        "never a run that hangs.",
        held_by="An append is one transaction; an error is judged once (repeat, wait, full, "
        "fatal), after a failed group each append is tried alone, and a failed sync stops the "
        "worker instead of being tried again.",
    ),
)

NOT_COVERED: Final = (
    ("Other Pythons", "All figures are of CPython 3.11; no other version has run these tests."),
    ("Other systems", "All figures are of Linux. macOS and Windows have run none of this."),
    (
        "The disk's own lies",
        "A power cut is simulated: what was not synced is lost. Torn sectors, directory entries "
        "that were never written, and a disk that says it synced and did not are not simulated.",
    ),
    (
        "Network file systems",
        "They are refused by the kind of file system that the kernel names; that refusal is "
        "tested with a kind that is made up, on no real network file system.",
    ),
    (
        "A file that somebody else can write",
        "Rows that nobody of us has written are named and stop nobody else; that is all. Whoever "
        "writes rows that make sense, with right checksums, changes what is done; only "
        "encryption notices that. A row at the last place of the inbox stops all messages, with "
        "an error that says so.",
    ),
    ("PostgreSQL", "Not built. There is one store, a SQLite file, with one owner at a time."),
    (
        "SQLite itself",
        "Its versions up to 3.51.2 have a known way to damage a file when two connections "
        "checkpoint and commit at once. Only the owner checkpoints, which avoids it by design; "
        "nothing tries to provoke it.",
    ),
    (
        "What simulation leaves out",
        "It has no threads, no pools of processes and no operating system: those are tested with "
        "real ones, at far fewer moments. Processes share the file's order of commits, as on one "
        "machine. Its programs call activities, wait, receive signals and updates, begin anew, "
        "have children, write to others and wait for their ends, ask for approvals, leave "
        "activities to who has their token, publish, and cancel in all three ways, and all that is "
        "paused, reset and forked meanwhile; codecs, blobs, pruning, timeouts of whole runs, bulk "
        "jobs, `map_all` and sagas are not among that.",
    ),
    (
        "What is not built",
        "Schedules and limits over several runs: invariants 11 and 12, and their share of 2, wait "
        "for them.",
    ),
    (
        "Versions",
        "One version has been written so far, so an upgrade means: stores and histories that "
        "this version kept are finished by later commits.",
    ),
    (
        "Activities' own effects",
        "An activity runs at least once. That an outside system sees a repeated attempt as one "
        "is up to that system and the idempotency key.",
    ),
    (
        "Long times",
        "The longest run of real processes is the longest line above. Leaks and drifts that "
        "need days would not show.",
    ),
)
