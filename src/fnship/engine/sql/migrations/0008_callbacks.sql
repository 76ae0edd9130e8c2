-- What became of a callback is kept for as long as its activity is. One with a due is to be sent.
CREATE TABLE callbacks_kept (
    activity_id TEXT PRIMARY KEY,
    url TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    due REAL,
    heard REAL,
    problem TEXT
);
INSERT INTO callbacks_kept (activity_id, url, attempts, due)
    SELECT activity_id, url, attempts, due FROM callbacks;
DROP TABLE callbacks;
ALTER TABLE callbacks_kept RENAME TO callbacks;
CREATE INDEX callbacks_by_due ON callbacks (due) WHERE due IS NOT NULL;
