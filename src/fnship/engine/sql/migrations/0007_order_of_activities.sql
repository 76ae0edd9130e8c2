-- Listings are in the order in which activities were created, so that a time is found in them.
DROP INDEX activities_by_function;
DROP INDEX activities_by_function_and_status;
DROP INDEX activities_by_status;
DROP INDEX activities_by_organization;
DROP INDEX activities_by_project;
DROP INDEX activities_by_environment;
DROP INDEX activities_dead;
CREATE INDEX activities_by_creation ON activities (created);
CREATE INDEX activities_by_function ON activities (function, created);
CREATE INDEX activities_by_function_and_status ON activities (function, status, created);
CREATE INDEX activities_by_status ON activities (status, created);
CREATE INDEX activities_by_organization ON activities (organization_id, created);
CREATE INDEX activities_by_organization_and_status
    ON activities (organization_id, status, created);
CREATE INDEX activities_by_project ON activities (project_id, created);
CREATE INDEX activities_by_project_and_status ON activities (project_id, status, created);
CREATE INDEX activities_by_environment ON activities (environment_id, created);
CREATE INDEX activities_by_environment_and_status ON activities (environment_id, status, created);
CREATE INDEX activities_dead ON activities (status, created)
    WHERE status = 'failed' AND replayed_by IS NULL;
