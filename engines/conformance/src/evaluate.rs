//! What a network must answer, computed in the plainest way.

use std::collections::HashMap;

use detectd_engine::{Batch, Tensor, TensorData};

use crate::network::{Network, Operation, Step};

/// A value of one batch item.
#[derive(Clone)]
struct Value {
    dims: Vec<usize>,
    data: TensorData,
}

impl Network {
    /// The outputs for a batch, in the order of [`Self::outputs`]. Sums are kept in 64 bits.
    ///
    /// # Panics
    /// A batch that does not fit the network, or a network that does not fit together.
    #[must_use]
    pub fn evaluate(&self, batch: &Batch) -> Vec<Tensor> {
        let size = batch.inputs[0].shape()[0];
        let mut outputs: Vec<Vec<Value>> = vec![Vec::new(); self.outputs.len()];
        for item in 0..size {
            let mut values = HashMap::new();
            for (port, tensor) in self.inputs.iter().zip(&batch.inputs) {
                let len = port.dims.iter().product::<usize>();
                let data = slice(tensor.data(), item * len..(item + 1) * len);
                values.insert(port.name, Value { dims: port.dims.clone(), data });
            }
            for step in &self.steps {
                let value = step.evaluate(&values);
                values.insert(step.output, value);
            }
            for (port, output) in self.outputs.iter().zip(&mut outputs) {
                let value = values[port.name].clone();
                assert_eq!(value.dims, port.dims, "{}: output {}", self.name, port.name);
                output.push(value);
            }
        }
        let stack = |items: Vec<Value>| {
            let shape = [&[size], &items[0].dims[..]].concat();
            Tensor::new(shape, concatenate(items.iter().map(|item| &item.data))).expect("as many values as the shape")
        };
        outputs.into_iter().map(stack).collect()
    }
}

impl Step {
    fn evaluate(&self, values: &HashMap<&str, Value>) -> Value {
        let first = &values[self.inputs[0]];
        let dims = first.dims.clone();
        match &self.operation {
            Operation::Concatenate => {
                let parts: Vec<&Value> = self.inputs.iter().map(|name| &values[name]).collect();
                let len = parts.iter().map(|part| part.dims[0]).sum();
                let data = concatenate(parts.iter().map(|part| &part.data));
                Value { dims: [&[len], &dims[1..]].concat(), data }
            }
            Operation::Reshape { dims } => Value { dims: dims.clone(), data: first.data.clone() },
            Operation::Convolution { weight, bias, kernel, stride, padding } => {
                convolution(first, weight, bias, [*kernel, *stride, *padding])
            }
            Operation::MaxPool => max_pool(first),
            Operation::Linear { weight, bias } => {
                let x = floats(first);
                let rows = weight.chunks_exact(x.len()).zip(bias);
                let y: Vec<f32> = rows.map(|(row, bias)| (dot(row, x) + f64::from(*bias)) as f32).collect();
                Value { dims: vec![y.len()], data: TensorData::Fp32(y) }
            }
            Operation::Silu => each(first, |x| x / (1.0 + (-x).exp())),
            Operation::Sigmoid => each(first, |x| 1.0 / (1.0 + (-x).exp())),
            Operation::Affine { scale, offset, columns } => {
                let width = dims[1];
                let place = |index: usize| if *columns { index % width } else { index / width };
                let y = floats(first).iter().enumerate();
                let y = y.map(|(index, x)| x * scale[place(index)] + offset[place(index)]).collect();
                Value { dims, data: TensorData::Fp32(y) }
            }
            Operation::Add => {
                let sum = floats(first).iter().zip(floats(&values[self.inputs[1]])).map(|(a, b)| a + b).collect();
                Value { dims, data: TensorData::Fp32(sum) }
            }
        }
    }
}

fn convolution(input: &Value, weight: &[f32], bias: &[f32], [kernel, stride, padding]: [usize; 3]) -> Value {
    let [channels, height, width] = input.dims[..] else { panic!("a convolution of {:?}", input.dims) };
    let x = floats(input);
    let sides = [height, width].map(|side| (side + 2 * padding - kernel) / stride + 1);
    let mut y = Vec::with_capacity(bias.len() * sides[0] * sides[1]);
    for (filter, bias) in weight.chunks_exact(channels * kernel * kernel).zip(bias) {
        for place in 0..sides[0] * sides[1] {
            let (row, column) = (place / sides[1] * stride, place % sides[1] * stride);
            let mut sum = f64::from(*bias);
            for (index, weight) in filter.iter().enumerate() {
                let (channel, within) = (index / (kernel * kernel), index % (kernel * kernel));
                // Positions in the padded picture.
                let (row, column) = (row + within / kernel, column + within % kernel);
                if (padding..padding + height).contains(&row) && (padding..padding + width).contains(&column) {
                    let x = x[(channel * height + row - padding) * width + column - padding];
                    sum += f64::from(*weight) * f64::from(x);
                }
            }
            y.push(sum as f32);
        }
    }
    Value { dims: vec![bias.len(), sides[0], sides[1]], data: TensorData::Fp32(y) }
}

fn max_pool(input: &Value) -> Value {
    let [channels, height, width] = input.dims[..] else { panic!("pooling of {:?}", input.dims) };
    let x = floats(input);
    let mut y = Vec::with_capacity(x.len() / 4);
    for row in 0..channels * height / 2 {
        for column in 0..width / 2 {
            let corner = 2 * row * width + 2 * column;
            y.push(x[corner].max(x[corner + 1]).max(x[corner + width]).max(x[corner + width + 1]));
        }
    }
    Value { dims: vec![channels, height / 2, width / 2], data: TensorData::Fp32(y) }
}

fn each(value: &Value, function: impl Fn(f64) -> f64) -> Value {
    let y = floats(value).iter().map(|&x| function(f64::from(x)) as f32).collect();
    Value { dims: value.dims.clone(), data: TensorData::Fp32(y) }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn floats(value: &Value) -> &[f32] {
    match &value.data {
        TensorData::Fp32(data) => data,
        other => panic!("{} where floats are expected", other.data_type()),
    }
}

fn slice(data: &TensorData, range: std::ops::Range<usize>) -> TensorData {
    match data {
        TensorData::Fp32(data) => TensorData::Fp32(data[range].to_vec()),
        TensorData::Int32(data) => TensorData::Int32(data[range].to_vec()),
        TensorData::Int64(data) => TensorData::Int64(data[range].to_vec()),
        TensorData::Uint8(data) => TensorData::Uint8(data[range].to_vec()),
        TensorData::Int8(data) => TensorData::Int8(data[range].to_vec()),
    }
}

fn concatenate<'a>(parts: impl Iterator<Item = &'a TensorData>) -> TensorData {
    let mut parts = parts.cloned();
    let mut all = parts.next().expect("at least one part");
    for part in parts {
        match (&mut all, part) {
            (TensorData::Fp32(all), TensorData::Fp32(part)) => all.extend(part),
            (TensorData::Int32(all), TensorData::Int32(part)) => all.extend(part),
            (TensorData::Int64(all), TensorData::Int64(part)) => all.extend(part),
            (TensorData::Uint8(all), TensorData::Uint8(part)) => all.extend(part),
            (TensorData::Int8(all), TensorData::Int8(part)) => all.extend(part),
            (all, part) => panic!("{} beside {}", part.data_type(), all.data_type()),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Port;
    use detectd_engine::DataType;

    /// Runs one operation on one input of one batch item.
    fn single(operation: Operation, dims: &[usize], x: &[f32], out: &[usize]) -> Vec<f32> {
        let port = |name, dims: &[usize]| Port { name, data_type: DataType::Fp32, dims: dims.to_vec() };
        let network = Network {
            name: "single",
            inputs: vec![port("x", dims)],
            steps: vec![Step { operation, inputs: vec!["x"], output: "y" }],
            outputs: vec![port("y", out)],
        };
        let tensor = Tensor::new([&[1], dims].concat(), TensorData::Fp32(x.to_vec())).unwrap();
        match network.evaluate(&Batch { inputs: vec![tensor] }).remove(0).into_data() {
            TensorData::Fp32(y) => y,
            other => panic!("{}", other.data_type()),
        }
    }

    #[test]
    fn operations_give_what_is_worked_out_by_hand() {
        let picture = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
        let ones = |kernel, stride, padding| Operation::Convolution {
            weight: vec![1.0; kernel * kernel],
            bias: vec![0.5],
            kernel,
            stride,
            padding,
        };
        assert_eq!(single(ones(3, 2, 1), &[1, 3, 3], &picture, &[1, 2, 2]), [12.5, 16.5, 24.5, 28.5]);
        assert_eq!(single(ones(2, 1, 0), &[1, 3, 3], &picture, &[1, 2, 2]), [12.5, 16.5, 24.5, 28.5]);
        assert_eq!(single(Operation::MaxPool, &[1, 2, 4], &picture[..8], &[1, 1, 2]), [6.0, 8.0]);
        let linear = Operation::Linear { weight: vec![1.0, 2.0, 3.0, 4.0], bias: vec![10.0, 20.0] };
        assert_eq!(single(linear, &[2], &[5.0, 6.0], &[2]), [27.0, 59.0]);
        let affine = |columns| Operation::Affine { scale: vec![1.0, 10.0], offset: vec![0.0, 1.0], columns };
        assert_eq!(single(affine(false), &[2, 2], &picture[..4], &[2, 2]), [1.0, 2.0, 31.0, 41.0]);
        assert_eq!(single(affine(true), &[2, 2], &picture[..4], &[2, 2]), [1.0, 21.0, 3.0, 41.0]);
        assert_eq!(single(Operation::Sigmoid, &[1], &[0.0], &[1]), [0.5]);
        let silu = single(Operation::Silu, &[1], &[1.0], &[1])[0];
        assert!((silu - 0.731_058_6).abs() < 1e-6, "{silu}");
    }
}
