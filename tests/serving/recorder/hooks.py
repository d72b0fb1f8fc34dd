"""Redaction hooks as a team writes them."""


def mask(sample):
    """Tokens of 1000 and more become 0."""
    ids = sample["input_ids"].copy()
    ids[ids >= 1000] = 0
    return {**sample, "input_ids": ids}


def drop_long(sample):
    return None if len(sample["input_ids"]) > 3 else sample


def raising(sample):
    raise RuntimeError(f"saw {sample}")


def broken(sample):
    return {"input_ids": sample["input_ids"]}


NO_FUNCTION = 7
