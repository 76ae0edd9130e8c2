CREATE TABLE state (
    organization_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    environment_id TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB,
    version INTEGER NOT NULL,
    expires REAL,
    PRIMARY KEY (organization_id, project_id, environment_id, key)
);
CREATE INDEX state_by_expiry ON state (expires) WHERE expires IS NOT NULL;
CREATE INDEX state_live ON state (organization_id, project_id, environment_id, expires)
WHERE value IS NOT NULL;
