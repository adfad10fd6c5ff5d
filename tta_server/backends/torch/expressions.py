"""Expressions in an exported program: torch evaluates them as Python, so only arithmetic on sizes may reach it.

A size is an expression of symbols, like `FloorDiv(Symbol('s0', integer=True), Integer(2))`. A guard is a condition on
the input's shape that the exported code relies on, like `L['x'].size()[2] == 16*(L['x'].size()[2] // 16)`.
"""

import ast
import math
import re
from collections.abc import Callable, Sequence

Shape = Sequence[int]
LONGEST = 10_000
"""Characters of an expression."""
HIGHEST_POWER = 8
SYMBOL = re.compile(r"[a-z]{1,3}[0-9]{1,20}|true|false|oo|int_oo")
_FUNCTIONS = """
Symbol Integer Float Rational Add Mul Pow Max Min Mod FloorDiv CeilDiv CleanDiv PythonMod ModularIndexing PowByNatural
FloatTrueDiv IntTrueDiv CeilToInt FloorToInt TruncToInt TruncToFloat RoundToInt ToFloat Identity Where
Eq Equality Ne Unequality Lt Le Gt Ge StrictLessThan LessThan StrictGreaterThan GreaterThan And Or Not
"""
FUNCTIONS = frozenset(_FUNCTIONS.split())
"""What an expression of sizes may call."""
POWERS = ("Pow", "PowByNatural")
GUARD_FUNCTIONS: dict[str, Callable[..., object]] = {
    "max": max,
    "min": min,
    "int": int,
    "float": float,
    "bool": bool,
    "floor": math.floor,
    "ceil": math.ceil,
    "trunc": math.trunc,
}
QUALIFIED = {
    "torch.sym_max": "max",
    "torch.sym_min": "min",
    "torch.sym_int": "int",
    "torch.sym_float": "float",
    "math.floor": "floor",
    "math.ceil": "ceil",
    "math.trunc": "trunc",
}
"""What a guard may call, as torch writes it."""
_ARITHMETIC = (
    *(ast.Expression, ast.Load, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.And, ast.Or, ast.Not, ast.USub),
    *(ast.UAdd, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod),
    *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
)


def is_size(text: str) -> bool:
    """Whether the text is an expression of sizes, and nothing else."""
    tree = _parse(text)
    return tree is not None and all(_fits(node) for node in ast.walk(tree)) and _names_are_arguments(tree)


def _fits(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return name in FUNCTIONS and (name not in POWERS or _is_small(arguments[-1:]))
        case ast.keyword(arg=str(), value=ast.Constant(value=bool())):
            return True
        case ast.Name(id=name):
            return name in FUNCTIONS or SYMBOL.fullmatch(name) is not None
        case ast.Constant(value=value):
            return isinstance(value, int | float) or (
                isinstance(value, str) and value.isascii() and value.isidentifier()
            )
    return isinstance(node, _ARITHMETIC)


def _names_are_arguments(tree: ast.Expression) -> bool:
    """Texts are names of symbols, and nothing else: sympy would evaluate them."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    symbols = [node for node in calls if isinstance(node.func, ast.Name) and node.func.id == "Symbol"]
    texts = sum(isinstance(node, ast.Constant) and isinstance(node.value, str) for node in ast.walk(tree))
    return texts == len(symbols) and all(
        len(call.args) == 1 and isinstance(call.args[0], ast.Constant) for call in symbols
    )


def _is_small(exponent: list[ast.expr]) -> bool:
    """An integer that is no larger than HIGHEST_POWER: others may take hours, or all memory."""
    match exponent:
        case [ast.Call(func=ast.Name(id="Integer"), args=[ast.Constant(value=int(power))])]:
            return 0 <= power <= HIGHEST_POWER
        case [ast.Call(func=ast.Name(id="Integer"), args=[ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=1))])]:
            return True
    return False


def read_guard(text: str) -> Callable[[Shape], bool] | None:
    """The condition as a function of the input's shape; None if the text is anything but one."""
    tree = _parse(text)
    if tree is None:
        return None
    tree = ast.fix_missing_locations(_ShapeOfInput().visit(tree))
    if not all(_fits_guard(node) for node in ast.walk(tree)):
        return None
    code = compile(tree, "<guard>", "eval")

    def holds(shape: Shape) -> bool:
        return bool(eval(code, {"__builtins__": {}, **GUARD_FUNCTIONS, "shape": tuple(shape)}))

    return holds


class _ShapeOfInput(ast.NodeTransformer):
    """`L['x'].size()`, also of an input in a list, becomes `shape`: there is one input. Functions lose their module."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        match node:
            case ast.Call(func=ast.Attribute(attr="size", value=value), args=[], keywords=[]):
                while isinstance(value, ast.Subscript) and isinstance(value.slice, ast.Constant):
                    value = value.value
                if isinstance(value, ast.Name) and value.id == "L":
                    return ast.copy_location(ast.Name("shape", ast.Load()), node)
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if isinstance(node.value, ast.Name) and (name := QUALIFIED.get(f"{node.value.id}.{node.attr}")):
            return ast.copy_location(ast.Name(name, ast.Load()), node)
        return self.generic_visit(node)


def _fits_guard(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            return name in GUARD_FUNCTIONS
        case ast.Name(id=name):
            return name == "shape" or name in GUARD_FUNCTIONS
        case ast.Subscript(value=ast.Name(id="shape"), slice=ast.Constant(value=int(axis))):
            return 0 <= axis < 4
        case ast.Constant(value=value):
            return isinstance(value, int | float)
    return isinstance(node, _ARITHMETIC)


def _parse(text: str) -> ast.Expression | None:
    if len(text) > LONGEST or not text.isascii() or "#" in text:
        return None
    try:
        return ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
