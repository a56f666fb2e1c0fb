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
//! visited. And `s'_i <= s_i`: once the scores that come are below the post threshold, or below the worst of the wanted
//! number kept so far, nothing that follows can be kept.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::field::{Field, Gaussian, Kernel, Linear, bounds};
use super::{Kept, finish};
use crate::{Candidates, MatrixKernel, MatrixNms, Real};

/// Candidates ranked at first; what follows is ranked only if it can still matter.
const FIRST: usize = 256;

/// A scored box that takes part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<T> {
    pub score: T,
    /// Decides between equal scores: the lower comes first, then the lower class.
    pub row: u32,
    pub class: u32,
    /// Index of its corners.
    pub corners: u32,
}

impl<T: Real> Entry<T> {
    /// Best first.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        let by_score = other.score.partial_cmp(&self.score).unwrap_or(Ordering::Equal);
        by_score.then_with(|| (self.row, self.class).cmp(&(other.row, other.class)))
    }
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
    /// All classes suppress each other.
    pub agnostic: bool,
}

/// Buffers that are kept between pictures; one per thread.
#[derive(Debug, Default)]
pub struct MatrixScratch<T = f32> {
    pub(super) entries: Vec<Entry<T>>,
    groups: Vec<Group<T>>,
}

/// One class on its way.
#[derive(Debug)]
struct Group<T> {
    class: u32,
    seen: usize,
    field: Field<T>,
}

/// Decays the score of every candidate by its overlap with better ones of its class; at most `most` that stay above
/// `post_threshold`, best first. `agnostic`: all classes count as one.
#[must_use]
pub fn matrix_nms<T: Real>(
    candidates: &Candidates<T>,
    parameters: &MatrixNms,
    agnostic: bool,
    most: usize,
    scratch: &mut MatrixScratch<T>,
) -> Vec<Kept<T>> {
    scratch.entries.clear();
    scratch.entries.extend((0..candidates.len()).map(|index| Entry {
        score: candidates.scores[index],
        row: candidates.rows[index],
        class: candidates.classes[index],
        corners: index as u32,
    }));
    let run = Run {
        kernel: parameters.kernel,
        sigma: T::from_f32(parameters.sigma),
        post_threshold: T::from_f32(parameters.post_threshold),
        top_k: parameters.top_k.unwrap_or(usize::MAX),
        most,
        normalized: parameters.normalized,
        agnostic,
    };
    let kept = run.decay(&candidates.corners, scratch);
    let kept = kept.into_iter().map(|entry| Kept { index: entry.corners as usize, score: entry.score }).collect();
    finish(candidates, kept, most)
}

impl<T: Real> Run<T> {
    /// The entries of `scratch` that are kept, with their decayed scores, in no order.
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
        let MatrixScratch { entries, groups } = scratch;
        groups.clear();
        let mut kept = Best::new(self.most);
        let mut around = None;
        let mut rest = entries.as_mut_slice();
        let mut ranked = FIRST;
        while !rest.is_empty() {
            let (now, later) = rank(rest, ranked);
            for entry in now {
                if self.is_over(entry.score, &kept) {
                    return kept.entries.into_vec().into_iter().map(|worst| worst.0).collect();
                }
                let group = self.group(groups, entry.class);
                group.seen += 1;
                if group.seen > self.top_k {
                    continue;
                }
                let corners_of = corners[entry.corners as usize];
                let (largest, least) = group.field.compare::<K>(corners_of);
                group.field.insert::<K>(corners_of, largest, || *around.get_or_insert_with(|| bounds(corners)));
                let score = entry.score * factor(least);
                if score > self.post_threshold {
                    kept.offer(Entry { score, ..*entry });
                }
            }
            rest = later;
            ranked *= 2;
        }
        kept.entries.into_vec().into_iter().map(|worst| worst.0).collect()
    }

    /// No candidate of this score or a lower one can be kept. Decay lowers a positive score, but raises a negative one.
    fn is_over(&self, score: T, kept: &Best<T>) -> bool {
        score >= T::zero() && (score <= self.post_threshold || kept.worst().is_some_and(|worst| score < worst))
    }

    fn group<'a>(&self, groups: &'a mut Vec<Group<T>>, class: u32) -> &'a mut Group<T> {
        let class = if self.agnostic { 0 } else { class };
        let at = groups.binary_search_by_key(&class, |group| group.class).unwrap_or_else(|at| {
            let offset = if self.normalized { T::zero() } else { T::one() };
            groups.insert(at, Group { class, seen: 0, field: Field::new(offset) });
            at
        });
        &mut groups[at]
    }
}

/// Splits off the best `count`, in order.
fn rank<T: Real>(entries: &mut [Entry<T>], count: usize) -> (&[Entry<T>], &mut [Entry<T>]) {
    let count = count.min(entries.len());
    if count < entries.len() {
        entries.select_nth_unstable_by(count, Entry::order);
    }
    let (now, later) = entries.split_at_mut(count);
    now.sort_unstable_by(Entry::order);
    (now, later)
}

/// The best so far, as many as are wanted.
struct Best<T> {
    most: usize,
    entries: BinaryHeap<Worst<T>>,
}

impl<T: Real> Best<T> {
    fn new(most: usize) -> Self {
        Self { most, entries: BinaryHeap::new() }
    }

    /// The score that a further entry has to reach; `None` while there is room.
    fn worst(&self) -> Option<T> {
        if self.entries.len() < self.most { None } else { self.entries.peek().map(|worst| worst.0.score) }
    }

    fn offer(&mut self, entry: Entry<T>) {
        if self.entries.len() < self.most {
            self.entries.push(Worst(entry));
        } else if let Some(mut worst) = self.entries.peek_mut()
            && entry.order(&worst.0) == Ordering::Less
        {
            *worst = Worst(entry);
        }
    }
}

/// An entry in a heap whose top is the worst.
#[derive(Clone, Copy)]
struct Worst<T>(Entry<T>);

impl<T: Real> Ord for Worst<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.order(&other.0)
    }
}

impl<T: Real> PartialOrd for Worst<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Real> PartialEq for Worst<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T: Real> Eq for Worst<T> {}
