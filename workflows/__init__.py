"""What a workflow is written with, and the workflows that come with perdure.

from perdure.workflows import Context, Conversation, Saga, act, approval, generate, judge, recall, remember
"""

from perdure.lineage import Frozen
from perdure.memory.contracts import Scope, customer
from perdure.workflows.approvals import approval
from perdure.workflows.conversation import Context, Conversation
from perdure.workflows.judging import judge
from perdure.workflows.memories import (
    consolidate,
    feedback,
    forget,
    get_memory,
    list_memories,
    memory_history,
    pin,
    update_memory,
)
from perdure.workflows.plan import PlanRun, PlanWorkflow
from perdure.workflows.plan_model import Plan
from perdure.workflows.renewal import renew
from perdure.workflows.saga import Saga
from perdure.workflows.steps import (
    act,
    generate,
    recall,
    remember,
)

__all__ = [
    "Context",
    "Conversation",
    "Frozen",
    "Plan",
    "PlanRun",
    "PlanWorkflow",
    "Saga",
    "Scope",
    "act",
    "approval",
    "consolidate",
    "customer",
    "feedback",
    "forget",
    "generate",
    "get_memory",
    "judge",
    "list_memories",
    "memory_history",
    "pin",
    "recall",
    "remember",
    "renew",
    "update_memory",
]
