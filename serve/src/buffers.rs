//! Input buffers, used again and again: a network's input is megabytes, and fresh pages cost more than filling them.

use std::sync::{Mutex, PoisonError};

use detectd_engine::Picture;

/// A bounded store of input buffers of one length.
pub struct BufferPool {
    length: usize,
    capacity: usize,
    free: Mutex<Vec<Vec<f32>>>,
}

impl BufferPool {
    /// A pool of at most `capacity` free buffers of `length` values.
    #[must_use]
    pub fn new(length: usize, capacity: usize) -> Self {
        Self { length, capacity, free: Mutex::default() }
    }

    /// A buffer of the pool's length, with any content.
    #[must_use]
    pub fn take(&self) -> Vec<f32> {
        let pooled = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        pooled.unwrap_or_else(|| vec![0.0; self.length])
    }

    /// Takes the buffers of finished pictures back.
    pub fn give_back(&self, pictures: Vec<Picture>) {
        let inputs = pictures.into_iter().filter_map(|picture| match picture {
            Picture::Letterboxed { input, .. } if input.len() == self.length => Some(input),
            _ => None,
        });
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        for input in inputs {
            if free.len() < self.capacity {
                free.push(input);
            }
        }
    }
}
