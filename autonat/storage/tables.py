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
    # created, running, interrupted, failed or finished; "running" with a dead owner means killed.
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
