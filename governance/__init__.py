"""Who may do what, and what is recorded of it: approvals, and how values reach the history."""

from perdure.governance.contracts import (
    APPROVALS,
    DECIDE,
    ApprovalRequest,
    Decision,
    DecisionCall,
)

__all__ = ["APPROVALS", "DECIDE", "ApprovalRequest", "Decision", "DecisionCall"]
