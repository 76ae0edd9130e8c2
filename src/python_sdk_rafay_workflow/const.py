"""Header names, as handlers in the field spell the constants."""

from typing import Final

from fnship import contract

__all__ = [
    "ActivityFileUploadHeader",
    "ActivityIDHeader",
    "EaasStateAPITokenHeader",
    "EaasStateEndpointHeader",
    "EngineAPIEndpointHeader",
    "EnvironmentIDHeader",
    "EnvironmentNameHeader",
    "EventSourceHeader",
    "EventSourceNameHeader",
    "EventTypeHeader",
    "OrganizationIDHeader",
    "ProjectIDHeader",
    "WorkflowTokenHeader",
]

ActivityIDHeader: Final = contract.ACTIVITY_ID
EngineAPIEndpointHeader: Final = contract.ENGINE_ENDPOINT
EnvironmentIDHeader: Final = contract.ENVIRONMENT_ID
EnvironmentNameHeader: Final = contract.ENVIRONMENT_NAME
EventSourceHeader: Final = contract.EVENT_SOURCE
EventSourceNameHeader: Final = contract.EVENT_SOURCE_NAME
EventTypeHeader: Final = contract.EVENT_TYPE
ActivityFileUploadHeader: Final = contract.FILE_UPLOAD
OrganizationIDHeader: Final = contract.ORGANIZATION_ID
ProjectIDHeader: Final = contract.PROJECT_ID
EaasStateEndpointHeader: Final = contract.STATE_ENDPOINT
EaasStateAPITokenHeader: Final = contract.STATE_TOKEN
WorkflowTokenHeader: Final = contract.WORKFLOW_TOKEN
