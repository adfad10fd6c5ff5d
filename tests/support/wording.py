"""Words of libraries and of Python itself, which no sentence for a client may hold."""

import re

FOREIGN = re.compile(
    r"Input should|Field required|Value error|unable to|constrained|valid (?:integer|number|string|list|tuple|boolean)"
    r"|Expecting|unexpected EOF|EOF while|expected value|trailing characters|recursion limit|control character"
    r"|DecodeError|protobuf|Error parsing|deserializ|ParseError"
    r"|NoneType|\bdict\b|\bstr\b|\bint\b|\btuple\b|<class|object at 0x|Traceback|\.py\b|numpy|pydantic|Literal"
    r"|\bNone\b|\bTrue\b|\bFalse\b|[a-z]Error\b|Exception|RuntimeException|\bONNX\b|onnxruntime[.:]|RUNTIME_EXCEPTION|Non-base64|padding\."
    r"|while (?:parsing|scanning)|Too many (?:files|fields)|Content-Disposition header",
)
LONGEST = 600


def check_sentence(sentence: str) -> str:
    """Require a sentence for a client without foreign words; return it."""
    assert 10 < len(sentence) <= LONGEST, sentence
    assert sentence.isprintable(), sentence
    found = FOREIGN.search(sentence)
    assert found is None, f"{found}: {sentence}"
    return sentence
