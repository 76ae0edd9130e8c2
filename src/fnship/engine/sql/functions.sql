-- name: put
INSERT INTO functions (
    name, source, location, timeout, concurrency, retry, resources, created, updated
)
VALUES (
    :name, :source, :location, :timeout, :concurrency, :retry, :resources, :updated, :updated
)
ON CONFLICT (name) DO UPDATE
SET source = excluded.source,
    location = excluded.location,
    timeout = excluded.timeout,
    concurrency = excluded.concurrency,
    retry = excluded.retry,
    resources = excluded.resources,
    updated = excluded.updated
RETURNING *

-- name: all
SELECT * FROM functions ORDER BY name

-- name: delete
DELETE FROM functions WHERE name = :name
