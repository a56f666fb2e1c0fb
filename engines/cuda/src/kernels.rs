//! The kernels' sources, which are part of the program.

use std::collections::HashSet;

/// What can be launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Pictures to the network's input.
    Letterbox,
    /// Rows that score enough.
    Score,
    /// Keys in order.
    Sort,
    /// Boxes in order of rank.
    Gather,
    /// Each box's largest overlap with a better one.
    MatrixOverlap,
    /// Scores after Matrix NMS.
    MatrixDecay,
    /// Greedy NMS.
    GreedyNms,
    /// What is kept, to the host.
    Answer,
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Self; 8] = [
        Self::Letterbox,
        Self::Score,
        Self::Sort,
        Self::Gather,
        Self::MatrixOverlap,
        Self::MatrixDecay,
        Self::GreedyNms,
        Self::Answer,
    ];

    /// Its name in the sources.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Letterbox => "letterbox",
            Self::Score => "score",
            Self::Sort => "sort",
            Self::Gather => "gather",
            Self::MatrixOverlap => "matrix_overlap",
            Self::MatrixDecay => "matrix_decay",
            Self::GreedyNms => "greedy_nms",
            Self::Answer => "answer",
        }
    }
}

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../kernels/", $name)))),*]
    };
}

/// The files that others include, and those with kernels.
const FILES: &[(&str, &str)] = files![
    "common.cuh",
    "numbers.cuh",
    "head.cuh",
    "work.cuh",
    "overlap.cuh",
    "letterbox.cu",
    "score.cu",
    "sort.cu",
    "gather.cu",
    "matrix_nms.cu",
    "greedy_nms.cu",
    "answer.cu",
];

/// All kernels as one source, in which the compiler's messages still name the file and the line.
#[must_use]
pub fn source() -> String {
    let mut text = String::new();
    let mut included = HashSet::new();
    for (name, _) in FILES.iter().filter(|(name, _)| name.ends_with(".cu")) {
        include(name, &mut included, &mut text);
    }
    text
}

/// Appends a file, with what it includes in the place of each `#include`, once.
fn include(name: &str, included: &mut HashSet<String>, text: &mut String) {
    let Some((_, content)) = FILES.iter().find(|(file, _)| *file == name) else { return };
    if !included.insert(name.to_owned()) {
        return;
    }
    text.push_str(&format!("#line 1 \"{name}\"\n"));
    for (number, line) in content.lines().enumerate() {
        if let Some(other) = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"')) {
            include(other, included, text);
            text.push_str(&format!("#line {} \"{name}\"\n", number + 2));
        } else if line != "#pragma once" {
            text.push_str(line);
            text.push('\n');
        } else {
            text.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_part_of_the_source_once() {
        let source = source();
        for (name, _) in FILES {
            assert_eq!(source.matches(&format!("#line 1 \"{name}\"")).count(), 1, "{name}");
        }
        assert!(!source.contains("#include") && !source.contains("#pragma once"));
        for kernel in Kernel::ALL {
            let declared = source.lines().filter(|line| line.starts_with("extern \"C\" __global__"));
            let declared = declared.filter(|line| line.contains(&format!(" {}(", kernel.name()))).count();
            assert_eq!(declared, 1, "{kernel:?}");
        }
        let names = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels")).expect("the folder");
        for entry in names {
            let name = entry.expect("an entry").file_name().into_string().expect("a name");
            assert!(FILES.iter().any(|(file, _)| *file == name), "{name} is not embedded");
        }
    }
}
