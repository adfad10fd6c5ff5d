"""Configs of small models, as mappings for `write_model`."""

CLASSIFICATION = {
    "task": "classification",
    "labels": ["red", "green", "blue"],
    "input": {"size": [8, 8], "resize": 10},
    "output": {"kind": "logits"},
    "policy": "hflip",
    "symmetries": ["hflip"],
}
SEGMENTATION = {
    "task": "segmentation",
    "labels": ["red", "green", "blue"],
    "input": {"size": "free", "multiple": 4},
    "output": {"kind": "logits"},
    "policy": "d4",
    "symmetries": ["hflip", "vflip", "rot90", "transpose"],
}
DETECTION = {
    "task": "detection",
    "labels": ["red", "green", "blue"],
    "input": {"size": "free", "multiple": 32, "resize": 800, "max_long_side": 1333},
    "output": {"boxes": "boxes", "scores": "scores", "labels": "labels"},
}


def changed(base, **changes):
    """Return a config with keys replaced; mappings such as `input` are updated, None removes a key."""
    config = {**base}
    for key, value in changes.items():
        both = {**base[key], **value} if isinstance(base.get(key), dict) and isinstance(value, dict) else value
        config[key] = {k: v for k, v in both.items() if v is not None} if isinstance(both, dict) else both
    return {key: value for key, value in config.items() if value is not None}
