-- The states in the CHECK constraints repeat appliance/domain/states.py; a test compares them.
-- Columns that end in _s are seconds of the boot clock (see clock.py); those in _at are wall-clock
-- times for people and are never compared.

CREATE TABLE IF NOT EXISTS boot (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    boot_id TEXT NOT NULL
) STRICT;

-- One row for each different content that was received. Never changed, so that the spool's files can be
-- matched to it for good.
CREATE TABLE IF NOT EXISTS instances (
    id INTEGER PRIMARY KEY,
    sop_instance_uid TEXT NOT NULL,
    sop_class_uid TEXT NOT NULL,
    transfer_syntax_uid TEXT NOT NULL,
    study_instance_uid TEXT NOT NULL,
    series_instance_uid TEXT NOT NULL,
    checksum TEXT NOT NULL,
    size INTEGER NOT NULL,
    spool_key TEXT NOT NULL UNIQUE,
    calling_ae_title TEXT NOT NULL,
    called_ae_title TEXT NOT NULL,
    address TEXT NOT NULL,
    facts TEXT NOT NULL,
    received_at TEXT NOT NULL,
    UNIQUE (sop_instance_uid, checksum)
) STRICT;
CREATE INDEX IF NOT EXISTS instances_by_series ON instances (series_instance_uid);

CREATE TABLE IF NOT EXISTS series (
    series_instance_uid TEXT PRIMARY KEY,
    study_instance_uid TEXT NOT NULL,
    modality TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'complete', 'planned', 'skipped')),
    revision INTEGER NOT NULL DEFAULT 1,
    first_s REAL NOT NULL,                      -- first image of this revision
    last_s REAL NOT NULL,                       -- latest image
    images INTEGER NOT NULL DEFAULT 0,
    changed_content INTEGER NOT NULL DEFAULT 0, -- 1: one UID arrived with two contents; models are held
    completed_by TEXT                           -- the evidence: a word of domain/policy.py
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS series_by_state ON series (state);

-- Why a model did not take a series. An answer that is missing here and in jobs has not been decided yet.
CREATE TABLE IF NOT EXISTS skips (
    series_instance_uid TEXT NOT NULL,
    revision INTEGER NOT NULL,
    model TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (series_instance_uid, revision, model)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY,
    input TEXT NOT NULL UNIQUE,                 -- model and series with revisions: one job for each
    model TEXT NOT NULL,
    model_sha256 TEXT NOT NULL,
    urgency INTEGER NOT NULL,                   -- the smallest first: triage before enhancement
    source TEXT NOT NULL,                       -- calling AE title; scanners take turns
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0,        -- counted when claimed, so that a crash counts too
    due_s REAL NOT NULL DEFAULT 0,
    since_s REAL NOT NULL,                      -- made, or its series complete
    images_due INTEGER NOT NULL DEFAULT 0,      -- while the series is open: not before it has so many images
    early_score REAL,                           -- of a finding that was told of before the series was complete
    early_key_image TEXT,                       -- SOP instance UID
    outcome TEXT CHECK (outcome IN ('enhanced', 'positive', 'negative', 'not_analysed')),
    reason TEXT,                                -- before the end: why the complete series is not taken
    detail TEXT,
    seconds REAL NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS jobs_waiting ON jobs (urgency, id) WHERE state IN ('queued', 'running');

CREATE TABLE IF NOT EXISTS job_series (
    job_id INTEGER NOT NULL REFERENCES jobs (id),
    series_instance_uid TEXT NOT NULL,
    revision INTEGER NOT NULL,
    PRIMARY KEY (job_id, series_instance_uid)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS job_series_by_series ON job_series (series_instance_uid);

-- The images that a model has dealt with one by one; those without a reason have a derived image.
CREATE TABLE IF NOT EXISTS taken (
    instance_id INTEGER NOT NULL REFERENCES instances (id),
    pipeline_digest TEXT NOT NULL,
    reason TEXT,
    PRIMARY KEY (instance_id, pipeline_digest)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS artifacts (
    id INTEGER PRIMARY KEY,
    job_id INTEGER NOT NULL REFERENCES jobs (id),
    kind TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL UNIQUE,
    sop_class_uid TEXT NOT NULL,
    transfer_syntax_uid TEXT NOT NULL,
    study_instance_uid TEXT NOT NULL,
    series_instance_uid TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    size INTEGER NOT NULL,
    spool_key TEXT NOT NULL UNIQUE,
    stands_for TEXT,                            -- SOP instance UID of the result whose place it takes where
                                                -- that one is not taken
    created_at TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS artifacts_by_job ON artifacts (job_id);
CREATE INDEX IF NOT EXISTS artifacts_by_place ON artifacts (stands_for) WHERE stands_for IS NOT NULL;

-- The series number that each series of results was given, for good.
CREATE TABLE IF NOT EXISTS result_series (
    series_instance_uid TEXT PRIMARY KEY,
    study_instance_uid TEXT NOT NULL,
    series_number INTEGER NOT NULL,
    UNIQUE (study_instance_uid, series_number)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS deliveries (
    id INTEGER PRIMARY KEY,
    destination TEXT NOT NULL,
    spool TEXT NOT NULL CHECK (spool IN ('originals', 'results')),
    spool_key TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    sop_class_uid TEXT NOT NULL,
    transfer_syntax_uid TEXT NOT NULL,
    study_instance_uid TEXT NOT NULL,
    series_instance_uid TEXT NOT NULL,
    size INTEGER NOT NULL,
    priority INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 3),
    state TEXT NOT NULL CHECK (state IN ('pending', 'sending', 'stored', 'committed', 'rejected', 'dropped')),
    attempts INTEGER NOT NULL DEFAULT 0,
    due_s REAL NOT NULL DEFAULT 0,              -- 0: now; else postponed until then
    suspect INTEGER NOT NULL DEFAULT 0,         -- 1: the connection ended at this object; it is sent alone
    status INTEGER,                             -- last DIMSE status
    reason TEXT,                                -- why it was postponed or refused
    created_s REAL NOT NULL,
    created_at TEXT NOT NULL,
    stored_at TEXT,
    UNIQUE (destination, spool_key)
) STRICT;
CREATE INDEX IF NOT EXISTS deliveries_ready ON deliveries (destination, priority, study_instance_uid, id)
    WHERE state = 'pending' AND due_s = 0 AND suspect = 0;
CREATE INDEX IF NOT EXISTS deliveries_suspect ON deliveries (destination, priority, id)
    WHERE state = 'pending' AND due_s = 0 AND suspect = 1;
CREATE INDEX IF NOT EXISTS deliveries_doubtful ON deliveries (destination, study_instance_uid)
    WHERE state = 'pending' AND suspect = 1;
CREATE INDEX IF NOT EXISTS deliveries_postponed ON deliveries (destination, due_s)
    WHERE state = 'pending' AND due_s > 0;
CREATE INDEX IF NOT EXISTS deliveries_sending ON deliveries (destination, study_instance_uid)
    WHERE state = 'sending';
CREATE INDEX IF NOT EXISTS deliveries_key_images ON deliveries (destination, study_instance_uid)
    WHERE priority = 0 AND state IN ('pending', 'sending');
CREATE INDEX IF NOT EXISTS deliveries_waiting ON deliveries (destination, created_s)
    WHERE state IN ('pending', 'sending');
CREATE INDEX IF NOT EXISTS deliveries_rejected ON deliveries (destination) WHERE state = 'rejected';
CREATE INDEX IF NOT EXISTS deliveries_by_series ON deliveries (series_instance_uid);

-- One row for each study and class of priority that has something ready to be sent, so that the next
-- delivery is found without a look at those of studies that are being sent.
CREATE TABLE IF NOT EXISTS queues (
    destination TEXT NOT NULL,
    priority INTEGER NOT NULL,
    study_instance_uid TEXT NOT NULL,
    head INTEGER NOT NULL,                      -- the first of `deliveries_ready`
    PRIMARY KEY (destination, priority, study_instance_uid)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS queues_by_head ON queues (destination, priority, head);
CREATE TRIGGER IF NOT EXISTS delivery_queued AFTER INSERT ON deliveries
WHEN new.state = 'pending' AND new.due_s = 0 AND new.suspect = 0 BEGIN
    INSERT INTO queues VALUES (new.destination, new.priority, new.study_instance_uid, new.id)
        ON CONFLICT DO UPDATE SET head = min(head, excluded.head);
END;
CREATE TRIGGER IF NOT EXISTS delivery_leaves_queue AFTER UPDATE OF state, due_s, suspect, priority ON deliveries
WHEN old.state = 'pending' AND old.due_s = 0 AND old.suspect = 0 BEGIN
    UPDATE queues SET head = coalesce(
        (SELECT id FROM deliveries WHERE destination = old.destination AND priority = old.priority
            AND study_instance_uid = old.study_instance_uid
            AND state = 'pending' AND due_s = 0 AND suspect = 0 ORDER BY id LIMIT 1), 0)
        WHERE destination = old.destination AND priority = old.priority
            AND study_instance_uid = old.study_instance_uid AND head = old.id;
    DELETE FROM queues WHERE destination = old.destination AND priority = old.priority
        AND study_instance_uid = old.study_instance_uid AND head = 0;
END;
CREATE TRIGGER IF NOT EXISTS delivery_joins_queue AFTER UPDATE OF state, due_s, suspect, priority ON deliveries
WHEN new.state = 'pending' AND new.due_s = 0 AND new.suspect = 0 BEGIN
    INSERT INTO queues VALUES (new.destination, new.priority, new.study_instance_uid, new.id)
        ON CONFLICT DO UPDATE SET head = min(head, excluded.head);
END;

-- Studies in which a model found something urgent: all that is sent of them asks the destination to hurry.
CREATE TABLE IF NOT EXISTS flagged_studies (
    study_instance_uid TEXT PRIMARY KEY,
    flagged_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Whether each destination answers, as the forwarder last saw it.
CREATE TABLE IF NOT EXISTS circuits (
    destination TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('closed', 'open', 'half_open')),
    reason TEXT,
    since_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- How many deliveries are in each state, kept while they move: counting a million rows takes seconds.
CREATE TABLE IF NOT EXISTS delivery_counts (
    destination TEXT NOT NULL,
    spool TEXT NOT NULL,
    state TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (destination, spool, state)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS delivery_made AFTER INSERT ON deliveries BEGIN
    INSERT INTO delivery_counts VALUES (new.destination, new.spool, new.state, 1)
        ON CONFLICT DO UPDATE SET count = count + 1;
END;
CREATE TRIGGER IF NOT EXISTS delivery_moved AFTER UPDATE OF state ON deliveries WHEN old.state != new.state BEGIN
    UPDATE delivery_counts SET count = count - 1
        WHERE destination = old.destination AND spool = old.spool AND state = old.state;
    INSERT INTO delivery_counts VALUES (new.destination, new.spool, new.state, 1)
        ON CONFLICT DO UPDATE SET count = count + 1;
END;

-- Every file of the spools that the rows above refer to, and whether it is still there.
CREATE TABLE IF NOT EXISTS files (
    id INTEGER PRIMARY KEY,
    spool TEXT NOT NULL CHECK (spool IN ('originals', 'results')),
    spool_key TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('kept', 'purged', 'removed')),
    kept_for TEXT NOT NULL DEFAULT 'new',       -- a word of journal/files.py, as of the last look
    kept_s REAL NOT NULL,                       -- since when
    settled_s REAL,                             -- since when nothing but its time keeps it
    look_s REAL NOT NULL                        -- when to look again
) STRICT;
CREATE INDEX IF NOT EXISTS files_kept ON files (kept_s) WHERE state = 'kept';
CREATE INDEX IF NOT EXISTS files_to_look_at ON files (look_s) WHERE state = 'kept';
CREATE INDEX IF NOT EXISTS files_purged ON files (id) WHERE state = 'purged';

CREATE TABLE IF NOT EXISTS file_counts (
    spool TEXT NOT NULL,
    state TEXT NOT NULL,
    kept_for TEXT NOT NULL,
    count INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (spool, state, kept_for)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS file_made AFTER INSERT ON files BEGIN
    INSERT INTO file_counts VALUES (new.spool, new.state, new.kept_for, 1, new.size)
        ON CONFLICT DO UPDATE SET count = count + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER IF NOT EXISTS file_moved AFTER UPDATE OF state, kept_for ON files
    WHEN old.state != new.state OR old.kept_for != new.kept_for BEGIN
    UPDATE file_counts SET count = count - 1, bytes = bytes - old.size
        WHERE spool = old.spool AND state = old.state AND kept_for = old.kept_for;
    INSERT INTO file_counts VALUES (new.spool, new.state, new.kept_for, 1, new.size)
        ON CONFLICT DO UPDATE SET count = count + 1, bytes = bytes + excluded.bytes;
END;

-- Storage commitment that scanners ask of us (PS3.4 annex J).
CREATE TABLE IF NOT EXISTS commitments (
    id INTEGER PRIMARY KEY,
    calling_ae_title TEXT NOT NULL,
    transaction_uid TEXT NOT NULL,
    called_ae_title TEXT NOT NULL,
    address TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('requested', 'ready', 'reported', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0,        -- of reporting
    since_s REAL NOT NULL,                      -- since when it is in its state
    due_s REAL,                                 -- when to look at it again; none once it has ended
    reason TEXT,                                -- why the last report did not arrive
    requested_at TEXT NOT NULL,
    reported_at TEXT,
    UNIQUE (calling_ae_title, transaction_uid)
) STRICT;
CREATE INDEX IF NOT EXISTS commitments_waiting ON commitments (state, due_s) WHERE due_s IS NOT NULL;

CREATE TABLE IF NOT EXISTS commitment_items (
    commitment_id INTEGER NOT NULL REFERENCES commitments (id),
    sop_instance_uid TEXT NOT NULL,
    sop_class_uid TEXT NOT NULL,
    failure INTEGER,                            -- Failure Reason (0008,1197), once the commitment is ready
    PRIMARY KEY (commitment_id, sop_instance_uid)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS commitment_items_by_instance ON commitment_items (sop_instance_uid);

-- Storage commitment that we ask of destinations.
CREATE TABLE IF NOT EXISTS commitment_transactions (
    id INTEGER PRIMARY KEY,
    destination TEXT NOT NULL,
    transaction_uid TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('made', 'asked', 'answered', 'expired')),
    since_s REAL NOT NULL,                      -- since when it is in its state
    made_at TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS commitment_transactions_open ON commitment_transactions (destination, since_s)
    WHERE state IN ('made', 'asked');

CREATE TABLE IF NOT EXISTS commitment_transaction_items (
    transaction_id INTEGER NOT NULL REFERENCES commitment_transactions (id),
    delivery_id INTEGER NOT NULL REFERENCES deliveries (id),
    PRIMARY KEY (transaction_id, delivery_id)
) STRICT, WITHOUT ROWID;

-- The destinations that are to commit what they store, as the forwarder's configuration says.
CREATE TABLE IF NOT EXISTS committing (destination TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;

-- What such a destination has stored and is to commit; the row goes once it has.
CREATE TABLE IF NOT EXISTS uncommitted (
    delivery_id INTEGER PRIMARY KEY REFERENCES deliveries (id),
    destination TEXT NOT NULL,
    transaction_id INTEGER REFERENCES commitment_transactions (id), -- the one that it is in now
    attempts INTEGER NOT NULL DEFAULT 0,        -- how often the destination said no
    due_s REAL DEFAULT 0,                       -- when to ask; none while in a transaction or given up
    reason INTEGER                              -- the last Failure Reason (0008,1197)
) STRICT;
CREATE TRIGGER IF NOT EXISTS delivery_uncommitted AFTER UPDATE OF state ON deliveries
WHEN new.state = 'stored' AND EXISTS (SELECT 1 FROM committing WHERE destination = new.destination) BEGIN
    INSERT OR IGNORE INTO uncommitted (delivery_id, destination) VALUES (new.id, new.destination);
END;
CREATE INDEX IF NOT EXISTS uncommitted_due ON uncommitted (destination, due_s) WHERE due_s IS NOT NULL;
CREATE INDEX IF NOT EXISTS uncommitted_by_transaction ON uncommitted (transaction_id)
    WHERE transaction_id IS NOT NULL;

-- The models of the pipelines, as far as they may be given series.
CREATE TABLE IF NOT EXISTS model_health (
    model TEXT PRIMARY KEY,
    model_sha256 TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('in_service', 'out_of_service')),
    failures INTEGER NOT NULL DEFAULT 0,        -- jobs in a row that it failed
    since_at TEXT NOT NULL,                     -- since when it is in its state
    why TEXT,                                   -- it was taken out of service
    retest TEXT,                                -- what the last test found wrong, if there was one since
    due_s REAL,                                 -- when to test it again; none while in service
    loads INTEGER NOT NULL DEFAULT 0            -- begun in a row, of which none ended: the process died in them
) STRICT, WITHOUT ROWID;

-- Every transition, in the transaction that made it.
CREATE TABLE IF NOT EXISTS history (
    id INTEGER PRIMARY KEY,
    aggregate TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    event TEXT NOT NULL,
    source TEXT NOT NULL,
    target TEXT NOT NULL,
    detail TEXT,
    at TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS history_by_aggregate ON history (aggregate, aggregate_id);
