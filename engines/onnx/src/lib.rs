//! ONNX on the CPU: the embedded default engine, and ONNX Runtime behind a feature.
