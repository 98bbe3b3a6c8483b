"""What the expressions of a plan say: `${...}` and conditions, in CEL as https://github.com/google/cel-spec has it.

What must not break: the same expression gives the same value on every worker and at every replay, so nothing here reads a
clock or follows the order of a hash; integers keep their digits; nothing loops for ever.
A function goes into `_functions.py`, an operator into `_syntax.py` and `_evaluation.py`; a type into `_values.py`.
"""

from perdure.workflows.expressions.expression import TYPE_NAMES, Expression, InvalidExpression, parse_expression
from perdure.workflows.expressions.templates import Template, as_text, parse_template

__all__ = ["TYPE_NAMES", "Expression", "InvalidExpression", "Template", "as_text", "parse_expression", "parse_template"]
