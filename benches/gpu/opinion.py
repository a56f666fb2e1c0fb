"""A third opinion on Matrix NMS: torch operators on the same boxes, after the definition (SOLOv2, section 3.3).

The folder holds, for each size N, `N.boxes` (N x 4 floats), `N.scores` (N x 80 floats) and `N.kept` (rows of 8 numbers:
corners, score, label, row, nothing). Also measures torchvision's batched_nms on the same boxes. The last line is one JSON
object.
"""

import json
import pathlib
import sys
import time

import numpy
import torch

CLASSES, SCORE_THRESHOLD, POST_THRESHOLD, MOST = 80, 0.1, 0.05, 300


def matrix_nms(boxes, scores, labels):
    """Indices and decayed scores, best first; the linear kernel."""
    order = torch.argsort(scores, descending=True, stable=True)
    boxes, labels = boxes[order], labels[order]
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    intersection = (high - low).clamp(min=0).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    overlap = intersection / (area[:, None] + area[None, :] - intersection)
    # Row: the better box; column: the one that it decays.
    overlap = torch.where(labels[:, None] == labels[None, :], overlap, 0.0).triu(diagonal=1)
    largest = overlap.max(0).values
    decay = ((1 - overlap) / (1 - largest[:, None])).min(0).values.clamp(max=1)
    decayed = scores[order] * decay
    kept = torch.nonzero(decayed > POST_THRESHOLD)[:, 0]
    best = kept[torch.argsort(decayed[kept], descending=True, stable=True)][:MOST]
    return order[best], decayed[best]


def compare(folder, size, device):
    """The largest difference of a score; rows that only one side keeps."""
    boxes = torch.from_numpy(numpy.fromfile(folder / f"{size}.boxes", "f4").reshape(size, 4)).to(device)
    scores = torch.from_numpy(numpy.fromfile(folder / f"{size}.scores", "f4").reshape(size, CLASSES)).to(device)
    best, labels = scores.max(1)
    candidates = torch.nonzero(best > SCORE_THRESHOLD)[:, 0]
    kept, decayed = matrix_nms(boxes[candidates], best[candidates], labels[candidates])
    expected = dict(zip(candidates[kept].tolist(), decayed.tolist()))
    raw = numpy.fromfile(folder / f"{size}.kept", "f4").reshape(-1, 8)
    rows = raw.view("u4")[:, 6]
    got = dict(zip(rows.tolist(), raw[:, 4].tolist()))
    common = expected.keys() & got.keys()
    difference = max((abs(expected[row] - got[row]) for row in common), default=0.0)
    milliseconds = measure(boxes[candidates], best[candidates], labels[candidates]) if device.type == "cuda" else None
    return difference, len(expected.keys() ^ got.keys()), len(got), milliseconds


def measure(boxes, scores, labels):
    try:
        from torchvision.ops import batched_nms
    except ImportError:
        return None
    least = float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(20):
            batched_nms(boxes, scores, labels, 0.45)
        torch.cuda.synchronize()
        least = min(least, (time.perf_counter() - start) * 1e3 / 20)
    return least


def main():
    folder = pathlib.Path(sys.argv[1])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes = sorted(int(path.stem) for path in folder.glob("*.boxes"))
    agree, details, torchvision = bool(sizes), [], {}
    for size in sizes:
        difference, unlike, kept, milliseconds = compare(folder, size, device)
        # A box at the end of the list may change places with its neighbour.
        agree &= difference < 1e-4 and unlike <= 2 and kept > 0
        details.append(f"{size}: {kept} kept, {unlike} unlike, scores within {difference:.1e}")
        if milliseconds is not None:
            torchvision[str(size)] = milliseconds
    print(json.dumps({"agree": agree, "detail": "; ".join(details), "torchvision_ms": torchvision}))


main()
