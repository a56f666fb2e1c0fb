//! Writes rendered scenes as PNG files, to be looked at: `scenes FIRST COUNT SIZE FOLDER`.

use std::{env, path::PathBuf, time::Instant};

use anyhow::Context;
use detectd_train::scenes::{CLASSES, render};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [first, count, size, folder] = &arguments[..] else { anyhow::bail!("usage: scenes FIRST COUNT SIZE FOLDER") };
    let (first, count): (u64, u64) = (first.parse()?, count.parse()?);
    let size: u32 = size.parse()?;
    let folder = PathBuf::from(folder);
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let mut drawing = std::time::Duration::ZERO;
    let mut per_class = [0; CLASSES.len()];
    for seed in first..first + count {
        let start = Instant::now();
        let sample = render(seed, size, size);
        drawing += start.elapsed();
        sample.boxes.iter().for_each(|labelled| per_class[labelled.class_id as usize] += 1);
        let path = folder.join(format!("{seed}.png"));
        image::save_buffer(&path, sample.image.pixels(), size, size, image::ColorType::Rgb8)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    println!("{:.2} ms a scene; objects: {per_class:?}", drawing.as_secs_f64() * 1e3 / count as f64);
    Ok(())
}
