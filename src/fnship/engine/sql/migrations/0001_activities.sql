CREATE TABLE activities (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    function TEXT NOT NULL,
    status TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    again INTEGER NOT NULL,
    payload BLOB NOT NULL,
    previous BLOB,
    code INTEGER,
    message TEXT,
    data BLOB,
    stack_trace BLOB,
    organization_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    environment_id TEXT NOT NULL,
    environment_name TEXT NOT NULL,
    event_source TEXT,
    event_source_name TEXT,
    event_type TEXT,
    callback TEXT,
    durable INTEGER NOT NULL,
    created REAL NOT NULL,
    due REAL,
    started REAL,
    ended REAL,
    replay_of TEXT,
    replayed_by TEXT
);
CREATE INDEX activities_by_function ON activities (function, position);
CREATE INDEX activities_by_function_and_status ON activities (function, status, position);
CREATE INDEX activities_by_status ON activities (status, position);
CREATE INDEX activities_by_organization ON activities (organization_id, position);
CREATE INDEX activities_by_project ON activities (project_id, position);
CREATE INDEX activities_by_environment ON activities (environment_id, position);
CREATE INDEX activities_unfinished ON activities (position) WHERE ended IS NULL;
CREATE INDEX activities_dead ON activities (status, position)
    WHERE status = 'failed' AND replayed_by IS NULL;
CREATE INDEX activities_by_end ON activities (ended) WHERE ended IS NOT NULL;

CREATE TABLE idempotency_keys (
    organization_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    environment_id TEXT NOT NULL,
    function TEXT NOT NULL,
    key TEXT NOT NULL,
    activity_id TEXT NOT NULL,
    created REAL NOT NULL,
    PRIMARY KEY (organization_id, project_id, environment_id, function, key)
);
CREATE INDEX idempotency_keys_by_activity ON idempotency_keys (activity_id);

CREATE TABLE callbacks (
    activity_id TEXT PRIMARY KEY,
    url TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    due REAL NOT NULL
);
CREATE INDEX callbacks_by_due ON callbacks (due);
