"""The definitions in proto/inference against those that `tritonclient` is generated from: names, numbers, types."""

from pathlib import Path

from google.protobuf import descriptor_pb2
from tritonclient.grpc import model_config_pb2, service_pb2

DESCRIPTORS = Path(__file__).resolve().parents[2] / "proto/src/gen/descriptors.bin"

# Of the Open Inference Protocol alone.
OURS_ONLY = ("inference.ModelMetadataResponse.properties", "inference.ModelMetadataResponse.PropertiesEntry")
# Statistics of models that answer one request several times. ModelConfig is not looked at: ours is a part of theirs.
THEIRS_ONLY = (
    "inference.InferResponseStatistics",
    "inference.ModelStatistics.response_stats",
    "inference.ModelStatistics.ResponseStatsEntry",
)


def elements(files) -> dict:
    """Everything that is on the wire, by its full name."""
    found = {}

    def message(prefix: str, definition) -> None:
        name = f"{prefix}.{definition.name}"
        for field in definition.field:
            union = definition.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None
            found[f"{name}.{field.name}"] = (field.number, field.type, field.label, field.type_name, union)
        for enum in definition.enum_type:
            enumeration(name, enum)
        for nested in definition.nested_type:
            message(name, nested)

    def enumeration(prefix: str, definition) -> None:
        for value in definition.value:
            found[f"{prefix}.{definition.name}.{value.name}"] = value.number

    for file in files:
        for definition in file.message_type:
            message(file.package, definition)
        for definition in file.enum_type:
            enumeration(file.package, definition)
        for service in file.service:
            for method in service.method:
                kind = (method.input_type, method.output_type, method.client_streaming, method.server_streaming)
                found[f"{file.package}.{service.name}.{method.name}"] = kind
    return found


def theirs(*modules) -> dict:
    files = []
    for module in modules:
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        files.append(file)
    return elements(files)


def ours() -> dict:
    every = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    return elements(file for file in every.file if file.package == "inference")


def same_numbers() -> None:
    known, own = theirs(service_pb2, model_config_pb2), ours()
    assert len(own) > 200, f"only {len(own)} elements were found"
    differing = [f"{name}: {what}, theirs {known.get(name)}" for name, what in own.items()
                 if not name.startswith(OURS_ONLY) and known.get(name) != what]
    assert not differing, differing


def nothing_missing() -> None:
    own = ours()
    missing = [name for name in theirs(service_pb2) if name not in own and not name.startswith(THEIRS_ONLY)]
    assert not missing, missing


def check_all(report) -> None:
    report.check("wire", "", "our names, numbers, types are theirs", same_numbers)
    report.check("wire", "", "no message of the service lacks a field", nothing_missing)
