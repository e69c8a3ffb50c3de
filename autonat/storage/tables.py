"""The schema. Changes go through a new file in migrations/versions as well; a test compares the two."""

import sqlalchemy as sa

metadata = sa.MetaData()

# What was measured or trained, by fingerprint. Rows are written once; only a recomputed artifact changes its hash.
results = sa.Table(
    "results",
    metadata,
    sa.Column("fingerprint", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("result", sa.Text, nullable=False),
    sa.Column("images", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("artifact_sha256", sa.String(64)),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
)

studies = sa.Table(
    "studies",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("recipe", sa.Text, nullable=False),
    # running, stopped, interrupted, failed or finished; "running" with a dead owner means killed.
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("summary", sa.Text),
    sa.Column("seconds", sa.Float, nullable=False, default=0.0),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    # The driver that holds the study: host, process and a mark that tells a reused process number apart.
    sa.Column("owner_host", sa.String(255)),
    sa.Column("owner_pid", sa.Integer),
    sa.Column("owner_mark", sa.String(64)),
    sa.Column("heartbeat_at", sa.DateTime(timezone=True)),
    # `autonat stop` sets it, the driver reads it with every heartbeat.
    sa.Column("stop_requested", sa.Boolean, nullable=False, default=False, server_default=sa.false()),
)

# What a study asked for and decided, in order. A resumed study walks through the same numbers again.
journal = sa.Table(
    "journal",
    metadata,
    sa.Column("study_id", sa.Integer, sa.ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("phase", sa.String(32), nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("purpose", sa.String(64), nullable=False),
    # A request points to its result; a decision carries its facts.
    sa.Column("fingerprint", sa.String(64), sa.ForeignKey("results.fingerprint")),
    sa.Column("decision", sa.Text),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
)
sa.Index("journal_fingerprint", journal.c.fingerprint)

# The task ledger: who did what, when, and how it ended. A row is one worker's share of one spec's blocks, or a whole
# training; autonat/execution/task_ledger.py says why. Nothing that a study computes depends on it.
tasks = sa.Table(
    "tasks",
    metadata,
    # Made by the driver, so that writing a row twice is the same as writing it once.
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("study_id", sa.Integer, sa.ForeignKey("studies.id", ondelete="CASCADE"), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    # The spec's fingerprint; its result may not be there yet, or never come.
    sa.Column("fingerprint", sa.String(64), nullable=False),
    # Block numbers as ranges, "0-3,7"; none for what has no blocks.
    sa.Column("blocks", sa.Text),
    sa.Column("attempt", sa.Integer, nullable=False),
    # running, done, failed, or lost: its driver or its worker ended before it did.
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("error", sa.Text),
    # The worker, and the driver (host, process, mark) that had it done.
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("worker", sa.String(64), nullable=False),
    sa.Column("driver", sa.String(400), nullable=False),
    sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("finished_at", sa.DateTime(timezone=True)),
    # Sums over what is done; the worker's highest memory use meanwhile, in bytes.
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("images", sa.BigInteger, nullable=False),
    sa.Column("peak_memory", sa.BigInteger),
)
sa.Index("tasks_study", tasks.c.study_id, tasks.c.id)
sa.Index("tasks_study_state", tasks.c.study_id, tasks.c.state)
sa.Index("tasks_fingerprint", tasks.c.fingerprint)

# What holds for the whole database: "artifacts", the address of the artifact folder where it was given.
settings = sa.Table(
    "settings",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
