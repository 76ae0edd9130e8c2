-- name: get
SELECT value, version FROM state
WHERE organization_id = :organization_id
    AND project_id = :project_id
    AND environment_id = :environment_id
    AND key = :key
    AND value IS NOT NULL
    AND (expires IS NULL OR expires > :now)

-- name: put
INSERT INTO state (
    organization_id, project_id, environment_id, key, value, version, expires
)
SELECT :organization_id, :project_id, :environment_id, :key, :value, 1 + COALESCE(
    (
        SELECT highest FROM state_scopes
        WHERE organization_id = :organization_id
            AND project_id = :project_id
            AND environment_id = :environment_id
    ),
    0
), :expires
WHERE :version IS NULL OR :version = 0 OR EXISTS (
    SELECT 1 FROM state
    WHERE organization_id = :organization_id
        AND project_id = :project_id
        AND environment_id = :environment_id
        AND key = :key
)
ON CONFLICT (organization_id, project_id, environment_id, key) DO UPDATE
SET value = excluded.value, version = state.version + 1, expires = excluded.expires
WHERE :version IS NULL OR :version = CASE
    WHEN state.value IS NULL OR state.expires <= :now THEN 0
    ELSE state.version
END
RETURNING version

-- name: import
INSERT INTO state (
    organization_id, project_id, environment_id, key, value, version, expires
) VALUES (
    :organization_id, :project_id, :environment_id, :key, :value, COALESCE(
        (
            SELECT highest + 1 FROM state_scopes
            WHERE organization_id = :organization_id
                AND project_id = :project_id
                AND environment_id = :environment_id
                AND highest >= :version
        ),
        :version
    ), :expires
)
ON CONFLICT (organization_id, project_id, environment_id, key) DO UPDATE
SET value = excluded.value,
    version = CASE
        WHEN excluded.version > state.version THEN excluded.version
        ELSE state.version + 1
    END,
    expires = excluded.expires

-- name: count
SELECT COUNT(*) AS keys FROM (
    SELECT 1 FROM state
    WHERE organization_id = :organization_id
        AND project_id = :project_id
        AND environment_id = :environment_id
        AND value IS NOT NULL
        AND (expires IS NULL OR expires > :now)
    LIMIT :most
) AS live

-- name: delete
UPDATE state SET value = NULL, expires = :now
WHERE organization_id = :organization_id
    AND project_id = :project_id
    AND environment_id = :environment_id
    AND key = :key
    AND value IS NOT NULL
    AND (expires IS NULL OR expires > :now)

-- name: list
SELECT key, value, version, expires FROM state
WHERE organization_id = :organization_id
    AND project_id = :project_id
    AND environment_id = :environment_id
    AND key > :after
    AND key >= :prefix
    AND (:behind IS NULL OR key < :behind)
    AND value IS NOT NULL
    AND (expires IS NULL OR expires > :now)
ORDER BY key
LIMIT :limit

-- name: expire
UPDATE state SET value = NULL, expires = :now
WHERE (organization_id, project_id, environment_id, key) IN (
    SELECT organization_id, project_id, environment_id, key FROM state
    WHERE value IS NOT NULL AND expires <= :now
    LIMIT :limit
)

-- name: note_forgotten
INSERT INTO state_scopes (organization_id, project_id, environment_id, highest)
SELECT organization_id, project_id, environment_id, MAX(version)
FROM (
    SELECT organization_id, project_id, environment_id, version FROM state
    WHERE value IS NULL AND expires <= :before
    ORDER BY expires, organization_id, project_id, environment_id, key
    LIMIT :limit
) AS forgotten
WHERE TRUE
GROUP BY organization_id, project_id, environment_id
ON CONFLICT (organization_id, project_id, environment_id) DO UPDATE
SET highest = CASE
    WHEN excluded.highest > state_scopes.highest THEN excluded.highest
    ELSE state_scopes.highest
END

-- name: forget
DELETE FROM state
WHERE (organization_id, project_id, environment_id, key) IN (
    SELECT organization_id, project_id, environment_id, key FROM state
    WHERE value IS NULL AND expires <= :before
    ORDER BY expires, organization_id, project_id, environment_id, key
    LIMIT :limit
)
