"""What a workflow is written with, and the workflows that come with perdure.

from perdure.workflows import Context, Conversation, Saga, act, approval, generate, label_answer, recall, remember
"""

from perdure.lineage import Frozen
from perdure.memory.contracts import Scope, customer
from perdure.workflows.approvals import approval
from perdure.workflows.conversation import Context, Conversation
from perdure.workflows.effects import act
from perdure.workflows.generation import generate
from perdure.workflows.labels import label_answer
from perdure.workflows.memory import (
    consolidate,
    feedback,
    forget,
    get_memory,
    list_memories,
    memory_history,
    pin,
    recall,
    remember,
    update_memory,
)
from perdure.workflows.plan import PlanRun, PlanWorkflow
from perdure.workflows.plan_model import Plan
from perdure.workflows.renewal import renew
from perdure.workflows.saga import Saga

judge = label_answer
"""What 0.1.0 called it. Remove after 2027-06."""

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
    "label_answer",
    "list_memories",
    "memory_history",
    "pin",
    "recall",
    "remember",
    "renew",
    "update_memory",
]
