-- What is read at once is bounded twice, by uploads and by their bytes: of the uploads that are too
-- many, only the sizes are read.

-- name: append
INSERT INTO logs (activity_id, attempt, batch, levels, size, created, text)
VALUES (:activity_id, :attempt, :batch, :levels, :size, :created, :text)
ON CONFLICT DO NOTHING

-- name: read
SELECT logs.position, logs.attempt, logs.text
FROM (
    SELECT position, SUM(size) OVER (ORDER BY attempt, position) - size AS ahead
    FROM (
        SELECT position, attempt, size FROM logs
        WHERE {conditions}
        ORDER BY attempt, position
        LIMIT :limit
    ) AS first
) AS part
JOIN logs ON logs.position = part.position
WHERE part.ahead < :bytes
ORDER BY logs.attempt, logs.position

-- name: follow
SELECT logs.position, logs.attempt, logs.text
FROM (
    SELECT position, SUM(size) OVER (ORDER BY position) - size AS ahead
    FROM (
        SELECT position, attempt, size FROM logs
        WHERE activity_id = :activity_id AND position > :after
        ORDER BY position
        LIMIT :limit
    ) AS first
) AS part
JOIN logs ON logs.position = part.position
WHERE part.ahead < :bytes
ORDER BY logs.position

-- name: window
SELECT MIN(position) AS lowest, COUNT(*) AS count
FROM (SELECT position FROM logs WHERE {conditions} ORDER BY position DESC LIMIT :window) AS newest

-- name: search
SELECT logs.position, logs.activity_id, logs.attempt, logs.text, part.chosen
FROM (
    SELECT position, SUM(size) OVER (ORDER BY position DESC) - size AS ahead,
        COUNT(*) OVER () AS chosen
    FROM (
        SELECT position, attempt, size FROM logs
        WHERE {conditions}
        ORDER BY position DESC
        LIMIT :limit
    ) AS first
) AS part
JOIN logs ON logs.position = part.position
WHERE part.ahead < :bytes
ORDER BY logs.position DESC

-- name: forget
DELETE FROM logs WHERE activity_id = :activity_id

-- name: total
SELECT COALESCE(SUM(size), 0) AS size FROM logs

-- name: oldest
SELECT position, created, size FROM logs ORDER BY position LIMIT :limit

-- name: delete_up_to
DELETE FROM logs WHERE position <= :position
