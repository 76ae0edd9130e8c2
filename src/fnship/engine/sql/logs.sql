-- name: append
INSERT INTO logs (activity_id, attempt, batch, levels, size, created, text)
VALUES (:activity_id, :attempt, :batch, :levels, :size, :created, :text)
ON CONFLICT DO NOTHING

-- name: read
SELECT position, attempt, text FROM logs
WHERE {conditions}
ORDER BY attempt, position
LIMIT :limit

-- name: follow
SELECT position, attempt, text FROM logs
WHERE activity_id = :activity_id AND position > :after
ORDER BY position
LIMIT :limit

-- name: search
SELECT position, activity_id, attempt, text FROM logs
WHERE {conditions}
ORDER BY position DESC
LIMIT :limit

-- name: forget
DELETE FROM logs WHERE activity_id = :activity_id

-- name: total
SELECT COALESCE(SUM(size), 0) AS size FROM logs

-- name: oldest
SELECT position, created, size FROM logs ORDER BY position LIMIT :limit

-- name: delete_up_to
DELETE FROM logs WHERE position <= :position
