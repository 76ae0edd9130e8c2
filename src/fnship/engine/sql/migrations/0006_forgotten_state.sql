-- The highest version of what was deleted in a scope, and of which no row is left.
CREATE TABLE state_scopes (
    organization_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    environment_id TEXT NOT NULL,
    highest INTEGER NOT NULL,
    PRIMARY KEY (organization_id, project_id, environment_id)
);
-- What is deleted says since when.
UPDATE state SET expires = 0 WHERE value IS NULL;
DROP INDEX state_by_expiry;
CREATE INDEX state_by_expiry ON state (expires) WHERE value IS NOT NULL AND expires IS NOT NULL;
CREATE INDEX state_deleted ON state (expires) WHERE value IS NULL;
