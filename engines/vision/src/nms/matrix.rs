//! Matrix NMS (SOLOv2, section 3.3), as in Paddle's `matrix_nms`, in memory linear in the candidates.
//!
//! With the candidates of a class in falling order of score `s`, `v_ij` the overlap of `i` with a better `j`, and
//! `m_j = max(0, max_{k<j} v_kj)`:
//!
//! ```text
//! decay_i = min(1, min_{j<i} f(v_ij, m_j))     linear: f = (1 - v) / (1 - m), gaussian: f = exp(sigma * (m^2 - v^2))
//! s'_i    = s_i * decay_i, kept if > post_threshold
//! ```
//!
//! Three facts keep it short, none of which changes a result. `m_j` needs only better boxes, so one pass in order of rank
//! has it when it is needed, and no matrix is stored. A box that does not overlap has `f >= 1`, so only near ones are
//! visited. And `s'_i <= s_i`: a score that is below the post threshold, or below the worst of the wanted number kept so
//! far, cannot be kept, nor can what follows it in its class.

use std::collections::BinaryHeap;

use super::Kept;
use super::field::{Field, Gaussian, Kernel, Linear, bounds};
use crate::{Candidates, MatrixKernel, MatrixNms, Real};

/// Candidates of a class ranked at first; what follows is ranked only if it can still matter.
const FIRST: usize = 256;

/// A scored box that takes part. Entries come class by class, and in the order in which equal scores are to be ranked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<T> {
    pub score: T,
    /// Only boxes of the same class suppress each other.
    pub class: u32,
    /// Index of its corners.
    pub corners: u32,
}

/// Parameters of one run.
#[derive(Clone, Copy)]
pub(super) struct Run<T> {
    pub kernel: MatrixKernel,
    pub sigma: T,
    pub post_threshold: T,
    /// Most candidates of a class that take part.
    pub top_k: usize,
    /// Most that are kept.
    pub most: usize,
    pub normalized: bool,
}

/// Buffers that are kept between pictures; one per thread.
#[derive(Debug, Default)]
pub struct MatrixScratch<T: Real = f32> {
    pub(super) entries: Vec<Entry<T>>,
    ranks: Vec<T::Rank>,
    field: Field<T>,
}

/// Decays the score of every candidate by its overlap with better ones of its class; at most `most` that stay above
/// `post_threshold`, best first; of equal scores the lower class, then
/// the lower row comes first. `agnostic`: all classes count as one.
#[must_use]
pub fn matrix_nms<T: Real>(
    candidates: &Candidates<T>,
    parameters: &MatrixNms,
    agnostic: bool,
    most: usize,
    scratch: &mut MatrixScratch<T>,
) -> Vec<Kept<T>> {
    let class = |index: u32| if agnostic { 0 } else { candidates.classes[index as usize] };
    let mut order: Vec<u32> = (0..candidates.len() as u32).collect();
    order.sort_by_key(|index| (class(*index), candidates.rows[*index as usize], candidates.classes[*index as usize]));
    scratch.entries.clear();
    scratch.entries.extend(order.into_iter().map(|index| Entry {
        score: candidates.scores[index as usize],
        class: class(index),
        corners: index,
    }));
    let run = Run {
        kernel: parameters.kernel,
        sigma: T::from_f32(parameters.sigma),
        post_threshold: T::from_f32(parameters.post_threshold),
        top_k: parameters.top_k.unwrap_or(usize::MAX),
        most,
        normalized: parameters.normalized,
    };
    let kept = run.decay(&candidates.corners, scratch);
    kept.into_iter().map(|entry| Kept { index: entry.corners as usize, score: entry.score }).collect()
}

impl<T: Real> Run<T> {
    /// The entries of `scratch` that are kept, with their decayed scores: best first, equal ones in the entries' order.
    pub(super) fn decay(&self, corners: &[[T; 4]], scratch: &mut MatrixScratch<T>) -> Vec<Entry<T>> {
        if self.most == 0 || self.top_k == 0 {
            return Vec::new();
        }
        match self.kernel {
            MatrixKernel::Linear => self.decay_with::<Linear>(corners, scratch, |least| least),
            MatrixKernel::Gaussian => self.decay_with::<Gaussian>(corners, scratch, |least| (self.sigma * least).exp()),
        }
    }

    fn decay_with<K: Kernel<T>>(
        &self,
        corners: &[[T; 4]],
        scratch: &mut MatrixScratch<T>,
        factor: impl Fn(T) -> T,
    ) -> Vec<Entry<T>> {
        let MatrixScratch { entries, ranks, field } = scratch;
        let offset = if self.normalized { T::zero() } else { T::one() };
        let mut kept = Best::new(self.most);
        let mut around = None;
        let mut start = 0;
        while let Some(first) = entries.get(start) {
            let class = first.class;
            let end = start + entries[start..].iter().take_while(|entry| entry.class == class).count();
            ranks.clear();
            let scores = entries[start..end].iter().map(|entry| entry.score);
            let ranked = (start as u32..).zip(scores).filter(|(_, score)| !self.is_over(*score, &kept));
            ranks.extend(ranked.map(|(index, score)| score.rank(index)));
            field.reset(offset);
            for rank in Ranked::new(ranks).take(self.top_k) {
                let index = T::ranked(rank);
                let entry = entries[index];
                if self.is_over(entry.score, &kept) {
                    break;
                }
                let corners_of = corners[entry.corners as usize];
                let (largest, least) = field.compare::<K>(corners_of);
                field.insert::<K>(corners_of, largest, || *around.get_or_insert_with(|| bounds(corners)));
                let score = entry.score * factor(least);
                if score > self.post_threshold {
                    entries[index].score = score;
                    kept.offer(index, entries);
                }
            }
            start = end;
        }
        kept.finish().map(|index| entries[index]).collect()
    }

    /// No candidate of this score or a lower one can be kept. Decay lowers a positive score, but raises a negative one.
    fn is_over(&self, score: T, kept: &Best<T>) -> bool {
        score >= T::zero() && (score <= self.post_threshold || kept.worst.is_some_and(|worst| score < worst))
    }
}

/// Ranks in order, sorted only as far as they are taken.
struct Ranked<'a, R> {
    ranks: &'a mut [R],
    next: usize,
    sorted: usize,
}

impl<'a, R: Copy + Ord> Ranked<'a, R> {
    fn new(ranks: &'a mut [R]) -> Self {
        Self { ranks, next: 0, sorted: 0 }
    }

    /// Sorts as many more as have been taken.
    fn extend(&mut self) {
        let rest = &mut self.ranks[self.sorted..];
        let count = self.sorted.max(FIRST).min(rest.len());
        if count < rest.len() {
            rest.select_nth_unstable(count);
        }
        rest[..count].sort_unstable();
        self.sorted += count;
    }
}

impl<R: Copy + Ord> Iterator for Ranked<'_, R> {
    type Item = R;

    fn next(&mut self) -> Option<R> {
        if self.next == self.sorted && self.sorted < self.ranks.len() {
            self.extend();
        }
        let rank = self.ranks[..self.sorted].get(self.next).copied();
        self.next += 1;
        rank
    }
}

/// The best so far, as many as are wanted.
struct Best<T: Real> {
    most: usize,
    /// The worst is on top.
    ranks: BinaryHeap<T::Rank>,
    /// Its score, once there are as many as are wanted.
    worst: Option<T>,
}

impl<T: Real> Best<T> {
    fn new(most: usize) -> Self {
        Self { most, ranks: BinaryHeap::new(), worst: None }
    }

    /// Takes an entry if it is among the best; `entries` hold the scores of those taken.
    fn offer(&mut self, index: usize, entries: &[Entry<T>]) {
        let rank = entries[index].score.rank(index as u32);
        if self.ranks.len() < self.most {
            self.ranks.push(rank);
            if self.ranks.len() < self.most {
                return;
            }
        } else if let Some(mut worst) = self.ranks.peek_mut() {
            *worst = rank.min(*worst);
        }
        self.worst = self.ranks.peek().map(|worst| entries[T::ranked(*worst)].score);
    }

    /// Indices, best first.
    fn finish(self) -> impl Iterator<Item = usize> {
        let mut ranks = self.ranks.into_vec();
        ranks.sort_unstable();
        ranks.into_iter().map(T::ranked)
    }
}
