"""What a Workflows address takes: the envelope and the part of Adaptive Cards 1.4 that is used, as JSON Schema."""

_TEXT = {
    "type": "object",
    "required": ["type", "text"],
    "additionalProperties": False,
    "properties": {
        "type": {"const": "TextBlock"},
        "text": {"type": "string", "minLength": 1},
        "wrap": {"type": "boolean"},
        "isSubtle": {"type": "boolean"},
        "weight": {"enum": ["Default", "Lighter", "Bolder"]},
        "size": {"enum": ["Default", "Small", "Medium", "Large", "ExtraLarge"]},
        "fontType": {"enum": ["Default", "Monospace"]},
        "color": {"enum": ["Default", "Dark", "Light", "Accent", "Good", "Warning", "Attention"]},
    },
}
_FACT = {
    "type": "object",
    "required": ["title", "value"],
    "additionalProperties": False,
    "properties": {"title": {"type": "string"}, "value": {"type": "string"}},
}
_FACTS = {
    "type": "object",
    "required": ["type", "facts"],
    "additionalProperties": False,
    "properties": {"type": {"const": "FactSet"}, "facts": {"type": "array", "items": _FACT, "minItems": 1}},
}
_CARD = {
    "type": "object",
    "required": ["type", "version", "body", "$schema"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"const": "http://adaptivecards.io/schemas/adaptive-card.json"},
        "type": {"const": "AdaptiveCard"},
        "version": {"const": "1.4"},
        "body": {"type": "array", "minItems": 1, "items": {"oneOf": [_TEXT, _FACTS]}},
    },
}
ENVELOPE = {
    "type": "object",
    "required": ["type", "attachments"],
    "additionalProperties": False,
    "properties": {
        "type": {"const": "message"},
        "attachments": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["contentType", "contentUrl", "content"],
                "additionalProperties": False,
                "properties": {
                    "contentType": {"const": "application/vnd.microsoft.card.adaptive"},
                    "contentUrl": {"type": "null"},
                    "content": _CARD,
                },
            },
        },
    },
}
MOST_BYTES = 28_000
