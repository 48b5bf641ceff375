"""Select the best epoch, and stop a run early."""


def best_record(records: list[dict[str, float]]) -> dict[str, float]:
    """Return the record with the highest dev CIDEr; of equal ones the lowest dev loss, then the earliest, decides."""
    return max(records, key=lambda record: (record["dev CIDEr"], -record["dev loss"]))


def stops_early(records: list[dict[str, float]], patience: int) -> bool:
    """Return whether the last `patience` epochs brought no better epoch, as `best_record` compares them."""
    return bool(records) and records[-1]["epoch"] - best_record(records)["epoch"] >= patience
