CREATE TABLE logs (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    activity_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    batch TEXT,
    levels INTEGER NOT NULL,
    size INTEGER NOT NULL,
    created REAL NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX logs_by_activity ON logs (activity_id, attempt, position);
CREATE UNIQUE INDEX logs_by_batch ON logs (activity_id, attempt, batch) WHERE batch IS NOT NULL;
CREATE INDEX logs_by_age ON logs (created, size);
