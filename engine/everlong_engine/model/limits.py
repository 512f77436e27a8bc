"""Every default of the engine, in one place (the table is in docs/reference/defaults.md).

Change one with a reason in docs/decisions/. Units stand at the end of the names.
"""

from typing import Final

SECOND_US: Final = 1_000_000

CHECKPOINT_EVENTS: Final = 1_000
CHECKPOINT_BYTES: Final = 1_000_000
HISTORY_EVENTS_WARNING: Final = 10_000
HISTORY_EVENTS_MAX: Final = 50_000
HISTORY_BYTES_MAX: Final = 50_000_000

ROW_BYTES_MAX: Final = 64_000_000
"""A row of the store. The largest that is ever written carries what a whole history may hold."""
EVENT_ELEMENTS_MAX: Final = 1_000_000
INSTANT_US_MAX: Final = 1 << 56
"""The year 4253: a later instant was not written by a clock."""

OUTPUT_CHANNELS_MAX: Final = 100
"""Of one execution: how far each has come is carried from run to run."""
OUTPUT_ITEMS_KEPT: Final = 10_000
"""Of each channel, unless its `Output` says otherwise."""
OUTPUT_TRIM_ITEMS: Final = 1_000
"""What may be there beyond that: the oldest go in such portions, or in a tenth of what is kept."""
OUTPUT_TRIM_MAX: Final = 5_000
"""Items that go with one append, beside as many as it publishes."""
POISON_IN_A_ROW_MAX: Final = 5
"""Messages of a stream that fail alone with none passing in between: it is not the messages."""
PARKED_MAX: Final = 1_000
PARKED_BYTES_MAX: Final = 500_000
"""Messages of all parked keys of one stream; with so much, nothing more is read."""
SAVEPOINTS_KEPT: Final = 100
"""Of one execution, the newest, with what tells of them."""
SAVEPOINTS_WAITING_MAX: Final = 20
"""That were asked for, and not taken yet: carried from run to run."""
PUBLISHED_MAX: Final = 10_000
"""Items of one drive: more were published without waiting for anything."""
PUBLISHED_READ_MAX: Final = 100
PUBLISHED_READ_BYTES_MAX: Final = 4_000_000
ENTITY_STATE_BYTES_MAX: Final = 500_000
ENTITIES_READ_BYTES_MAX: Final = 4_000_000
"""Of a page of keys. States of named keys come all at once."""
ENTITIES_WRITTEN_BYTES_MAX: Final = 32_000_000
ENTITY_TIMERS_MAX: Final = 100
ENTITY_TIMERS_AT_ONCE: Final = 500
"""What a subscriber reads at once: the first of both that is reached."""

LETTERS_AT_ONCE: Final = 100
"""That a relay takes out of an outbox and hands to its sink together, and so may repeat after a
crash: sources that know ids keep twice as many unless they are told otherwise."""
LETTERS_BYTES_AT_ONCE: Final = 4_000_000
"""Likewise, in bytes: the first of both that is reached."""

TAGS_MAX: Final = 32
"""Of one execution."""
TAG_CHARS_MAX: Final = 512
FILTER_CHARS_MAX: Final = 10_000
FILTER_DEPTH_MAX: Final = 40
FILTER_VALUES_MAX: Final = 500
MEMO_BYTES_MAX: Final = 64 * 1024
"""It is carried from run to run, and shown with every look at the execution."""

HEADERS_BYTES_MAX: Final = 16 * 1024
"""Of one event: they travel along with everything that it leads to."""

PAYLOAD_BYTES_MAX: Final = 2_000_000
PAYLOAD_INLINE_BYTES_MAX: Final = 64 * 1024

CACHED_RUNS_MAX: Final = 1_000
DRIVE_CALLBACKS_MAX: Final = 100_000
DRIVE_REPORT_S: Final = 1.0

SHARDS: Final = 1024
"""Of a store on a server, for good from when it is made. A file has one (decision 0001)."""
LEASE_US: Final = 10 * SECOND_US
"""How long what a worker owns is nobody else's without a sign of life of it."""
BEAT_S: Final = 3.0
SILENT_VERSION_US: Final = 60 * SECOND_US
"""How long older versions leave alone what belonged to a newer one whose workers fell silent."""

GROUP_APPENDS_MAX: Final = 256
ATTEMPTS_KEPT: Final = 20
RETENTION_US: Final = 30 * 24 * 3600 * SECOND_US
PRUNE_RUNS_MAX: Final = 200
PRUNE_SHARE: Final = 0.05
"""Of the time, at most, sweeps are at work while there is anything to delete: whoever claims shares
the disk with them."""
CLAIM_RUNS_MAX: Final = 100
TAKE_TASKS_MAX: Final = 50
"""Of task queues, with one look; fewer if fewer slots are free."""
QUEUE_CHARS_MAX: Final = 200
"""Of its name, and of a key in it."""
PRIORITY_MAX: Final = 1_000_000
LANES_MAX: Final = 500
"""Of keys that may begin, among whom one claim chooses."""
TURNS_MAX: Final = 200
"""Executions of one pool that may begin with one look."""

LOSSES_TO_PROBATION: Final = 2
STRIKES_TO_POISON: Final = 3
HOLD_US: Final = SECOND_US // 2
HOLD_DOUBLINGS_MAX: Final = 7
TRIALS_OF_A_HOLD: Final = 8
WATCH_US: Final = 8 * SECOND_US
WATCHES_US: Final = 60 * SECOND_US
