"""The wire: header names, paths and codes, exactly as engines and functions exchange them.

Header names stand here as they are written. HTTP compares them without case, and
ASGI servers hand them over in lower case, so look them up by ``name.lower()``.
"""

from __future__ import annotations

from typing import Final

# Headers that become request["metadata"].
ACTIVITY_ID: Final = "X-Activity-ID"
ENVIRONMENT_ID: Final = "X-Environment-ID"
ENVIRONMENT_NAME: Final = "X-Environment-Name"
ORGANIZATION_ID: Final = "X-Organization-ID"
PROJECT_ID: Final = "X-Project-ID"
STATE_ENDPOINT: Final = "X-Eaas-State-Endpoint"
STATE_TOKEN: Final = "X-Eaas-State-Token"  # noqa: S105 - the header's name, not a token
EVENT_SOURCE: Final = "X-Event-Source"
EVENT_SOURCE_NAME: Final = "X-Event-Source-Name"
EVENT_TYPE: Final = "X-Event-Type"

METADATA_KEYS: Final = {
    ACTIVITY_ID: "activityID",
    ENVIRONMENT_ID: "environmentID",
    ENVIRONMENT_NAME: "environmentName",
    ORGANIZATION_ID: "organizationID",
    PROJECT_ID: "projectID",
    STATE_ENDPOINT: "stateStoreUrl",
    STATE_TOKEN: "stateStoreToken",
    EVENT_SOURCE: "eventSource",
    EVENT_SOURCE_NAME: "eventSourceName",
    EVENT_TYPE: "eventType",
}
"""Header name → key of ``request["metadata"]``."""

# Headers for the SDK alone; a handler never sees them.
ENGINE_ENDPOINT: Final = "X-Engine-Endpoint"
FILE_UPLOAD: Final = "X-Activity-File-Upload"
WORKFLOW_TOKEN: Final = "X-Workflow-Token"  # noqa: S105 - the header's name, not a token
ACTIVITY_ATTEMPT: Final = "X-Activity-Attempt"
ACTIVITY_DEADLINE: Final = "X-Activity-Deadline"
TIMEOUT: Final = "X-Timeout"
LOG_BATCH: Final = "X-Log-Batch"
LOG_BATCH_ENDPOINT: Final = "X-Log-Batch-Endpoint"

# Where a caller wants to be told how its activity ended, and the headers of that callback.
CALLBACK_URL: Final = "X-Callback-Url"
CALL_ID: Final = "X-Call-Id"
DURATION_SECONDS: Final = "X-Duration-Seconds"
FUNCTION_STATUS: Final = "X-Function-Status"
FUNCTION_NAME: Final = "X-Function-Name"

# error_code of an answer with status 500.
EXECUTE_AGAIN: Final = 1
FAILED: Final = 2
TRANSIENT: Final = 3
NOT_FOUND: Final = 4
CONFLICT: Final = 5

INVOKE_PATH: Final = "/"
READY_PATH: Final = "/_/ready"
HEALTH_PATH: Final = "/_/health"

DEFAULT_TARGET: Final = "function.handler:handle"
"""The handler's place in a function folder, unless ``FUNCTION_TARGET`` names another."""
