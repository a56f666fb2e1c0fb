"""Sends a picture to a detectd server and prints the boxes: client.py PICTURE [HOST:PORT]"""

import sys

import grpc
from detect.v1 import detect_pb2, detect_pb2_grpc


def main() -> None:
    picture = sys.argv[1]
    server = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:8001"
    with open(picture, "rb") as file:
        encoded = file.read()

    with grpc.insecure_channel(server) as channel:
        detector = detect_pb2_grpc.DetectServiceStub(channel)
        request = detect_pb2.DetectRequest(
            image=detect_pb2.Image(encoded=encoded),
            options=detect_pb2.DetectOptions(score_threshold=0.3),
        )
        try:
            response = detector.Detect(request, timeout=10)
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")

    print(f"{picture}: {response.image_width}x{response.image_height}, {response.model} version {response.version}")
    for found in response.detections:
        box = found.box
        print(f"{found.label:10} {found.score:.3f}  ({box.x1:.0f}, {box.y1:.0f}) to ({box.x2:.0f}, {box.y2:.0f})")


if __name__ == "__main__":
    main()
