"""Runs checks one after the other, and tells of each in a table."""

import json
import traceback


class Report:
    """Gathers results. A check is a function; it passes when it returns, and fails when it raises."""

    def __init__(self):
        self._rows = []

    def check(self, client: str, calls: str, what: str, function, *arguments, refused: bool = False) -> None:
        """`refused`: what is checked is that the server says clearly that it does not do this."""
        try:
            function(*arguments)
            reason = ""
        except Exception as error:  # Whatever a check raises is its result.
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{place.filename.rsplit('/')[-1]}, line {place.lineno}"
            reason = f"{type(error).__name__} in {where}: {error}".replace("\n", " ")
        result = "failed" if reason else "refused" if refused else "passed"
        self._rows.append((client, result, what, calls, reason))

    def close(self) -> int:
        """Prints everything; gives the exit code."""
        header = ("client", "result", "what", "calls")
        widths = [max(len(row[column]) for row in [header, *self._rows]) for column in range(3)] + [0]
        for row in [header, tuple("-" * max(width, 5) for width in widths), *self._rows]:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
            if row[4:] and row[4]:
                print(f"    {row[4]}")
        results = [row[1] for row in self._rows]
        calls = {kind: sorted({call for row in self._rows if row[1] == kind for call in row[3].split(", ") if call})
                 for kind in ("passed", "refused")}
        # What is refused in one setting may work in another.
        calls["refused"] = [call for call in calls["refused"] if call not in calls["passed"]]
        failed = results.count("failed")
        summary = {"passed": len(results) - failed, "failed": failed}
        print(json.dumps(summary | {"calls_that_work": calls["passed"], "calls_refused": calls["refused"]}))
        return 1 if failed else 0
