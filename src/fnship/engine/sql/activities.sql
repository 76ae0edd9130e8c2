-- name: insert
INSERT INTO activities (
    id, function, status, attempts, failures, again, payload, previous,
    code, message, data, stack_trace,
    organization_id, project_id, environment_id, environment_name,
    event_source, event_source_name, event_type, callback, durable,
    created, due, started, ended, replay_of
) VALUES (
    :id, :function, :status, :attempts, :failures, :again, :payload, :previous,
    :code, :message, :data, :stack_trace,
    :organization_id, :project_id, :environment_id, :environment_name,
    :event_source, :event_source_name, :event_type, :callback, :durable,
    :created, :due, :started, :ended, :replay_of
) ON CONFLICT (id) DO NOTHING

-- name: get
SELECT * FROM activities WHERE id = :id

-- name: page
SELECT
    position, id, function, status, attempts, failures, again, x'7b7d' AS payload,
    NULL AS previous, code, message, data, stack_trace,
    organization_id, project_id, environment_id, environment_name,
    event_source, event_source_name, event_type, callback, durable,
    created, due, started, ended, replay_of, replayed_by
FROM activities
WHERE {conditions}
ORDER BY created DESC, position DESC
LIMIT :limit

-- name: unfinished
SELECT id, function FROM activities
WHERE ended IS NULL AND position > :after
ORDER BY position
LIMIT :limit

-- name: begin
UPDATE activities
SET status = 'running',
    attempts = attempts + 1,
    failures = failures + (CASE WHEN status = 'running' THEN 1 ELSE 0 END),
    started = :now,
    due = NULL
WHERE id = :id AND ended IS NULL
RETURNING *

-- name: record
UPDATE activities
SET status = :status,
    failures = :failures,
    again = :again,
    previous = :previous,
    code = :code,
    message = :message,
    data = :data,
    stack_trace = :stack_trace,
    due = :due,
    ended = :ended
WHERE id = :id AND attempts = :attempts AND ended IS NULL

-- name: interrupt
UPDATE activities
SET status = 'queued'
WHERE id = :id AND attempts = :attempts AND status = 'running'

-- name: cancel
UPDATE activities
SET status = 'cancelled', ended = :now, due = NULL, message = :message
WHERE id = :id AND ended IS NULL

-- name: insert_key
INSERT INTO idempotency_keys (
    organization_id, project_id, environment_id, function, key, activity_id, created
) VALUES (
    :organization_id, :project_id, :environment_id, :function, :key, :activity_id, :created
)

-- name: find_key
SELECT activity_id FROM idempotency_keys
WHERE organization_id = :organization_id
    AND project_id = :project_id
    AND environment_id = :environment_id
    AND function = :function
    AND key = :key

-- name: insert_callback
INSERT INTO callbacks (activity_id, url, attempts, due) VALUES (:activity_id, :url, 0, :due)

-- name: due_callbacks
SELECT * FROM callbacks
WHERE due IS NOT NULL AND (due <= :now OR due > :latest)
ORDER BY due
LIMIT :limit

-- name: next_callback
SELECT MIN(due) AS due FROM callbacks WHERE due > :now

-- name: get_callback
SELECT * FROM callbacks WHERE activity_id = :activity_id

-- name: delay_callback
UPDATE callbacks
SET attempts = attempts + 1, due = :due, problem = :problem
WHERE activity_id = :activity_id

-- name: end_callback
UPDATE callbacks
SET attempts = attempts + 1, due = NULL, heard = :heard, problem = :problem
WHERE activity_id = :activity_id

-- name: renew_callback
UPDATE callbacks
SET attempts = 0, due = :now, heard = NULL, problem = NULL
WHERE activity_id = :activity_id

-- name: delete_callback
DELETE FROM callbacks WHERE activity_id = :activity_id

-- name: old
SELECT id FROM activities WHERE ended < :before ORDER BY ended LIMIT :limit

-- name: delete
DELETE FROM activities WHERE id = :id

-- name: delete_keys
DELETE FROM idempotency_keys WHERE activity_id = :id

-- name: mark_replayed
UPDATE activities SET replayed_by = :replayed_by
WHERE id = :id AND (NOT :once OR replayed_by IS NULL)
