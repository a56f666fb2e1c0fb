"""Runs checks one after the other, and tells of each in a table."""

import json
import traceback


class Report:
    """A check is a function; it passes when it returns, and fails when it raises."""

    def __init__(self):
        self._rows = []

    def check(self, front: str, calls: str, what: str, function, *arguments) -> None:
        try:
            function(*arguments)
            reason = ""
        except Exception as error:  # Whatever a check raises is its result.
            place = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__} in line {place.lineno}: {error}".replace("\n", " ")
        self._rows.append((front, calls, what, "failed" if reason else "passed", reason))

    def close(self) -> int:
        """Prints everything; gives the exit code."""
        header = ("client", "calls", "what", "result")
        widths = [max(len(str(row[column])) for row in [header, *self._rows]) for column in range(len(header))]
        for row in [header, tuple("-" * width for width in widths), *self._rows]:
            print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())
            if len(row) > len(header) and row[-1]:
                print(f"    {row[-1]}")
        failed = sum(row[3] == "failed" for row in self._rows)
        calls = sorted({call for row in self._rows if row[3] == "passed" for call in row[1].split(", ")})
        print(json.dumps({"passed": len(self._rows) - failed, "failed": failed, "calls": calls}))
        return 1 if failed else 0
