//! Role: a set of integers kept as sorted, disjoint, non-adjacent ranges.
//! Owns: the ranges. Appending at the top is O(1), which is the common case of every user.

use std::collections::VecDeque;
use std::ops::Range;

/// A set of `u64`, stored as ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    ranges: VecDeque<Range<u64>>,
}

impl RangeSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Index of the first range that ends after `n` (or touches it, with `touching`).
    fn first_ending_after(&self, n: u64) -> usize {
        match self.ranges.back() {
            Some(last) if last.end <= n => self.ranges.len(),
            Some(last) if last.start <= n => self.ranges.len() - 1,
            _ => self.ranges.partition_point(|r| r.end <= n),
        }
    }

    /// Adds a range; returns how many of its numbers were new.
    pub fn insert(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        if let Some(last) = self.ranges.back_mut() {
            if last.end == range.start {
                last.end = range.end;
                return range.end - range.start;
            }
            if last.end < range.start {
                self.ranges.push_back(range.clone());
                return range.end - range.start;
            }
        } else {
            self.ranges.push_back(range.clone());
            return range.end - range.start;
        }
        // First range that touches or overlaps from the left.
        let first = self.ranges.partition_point(|r| r.end < range.start);
        let mut merged = range.clone();
        let mut covered = 0;
        let mut last = first;
        while let Some(r) = self.ranges.get(last).filter(|r| r.start <= range.end) {
            covered += r.end.min(range.end).saturating_sub(r.start.max(range.start));
            merged = merged.start.min(r.start)..merged.end.max(r.end);
            last += 1;
        }
        if first == last {
            self.ranges.insert(first, merged);
        } else {
            self.ranges[first] = merged;
            self.ranges.drain(first + 1..last);
        }
        range.end - range.start - covered
    }

    /// Removes a range.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.first_ending_after(range.start);
        let mut keep: Vec<Range<u64>> = Vec::with_capacity(2);
        let mut last = first;
        while let Some(r) = self.ranges.get(last).filter(|r| r.start < range.end) {
            if r.start < range.start {
                keep.push(r.start..range.start);
            }
            if r.end > range.end {
                keep.push(range.end..r.end);
            }
            last += 1;
        }
        self.ranges.drain(first..last);
        for (i, r) in keep.into_iter().enumerate() {
            self.ranges.insert(first + i, r);
        }
    }

    /// Forgets all numbers below `floor`.
    pub fn remove_below(&mut self, floor: u64) {
        while let Some(r) = self.ranges.front_mut() {
            if r.end <= floor {
                self.ranges.pop_front();
            } else {
                r.start = r.start.max(floor);
                break;
            }
        }
    }

    /// Whether `n` is in the set.
    pub fn contains(&self, n: u64) -> bool {
        self.ranges.get(self.first_ending_after(n)).is_some_and(|r| r.start <= n)
    }

    /// Whether all of `range` is in the set.
    pub fn contains_range(&self, range: Range<u64>) -> bool {
        range.is_empty()
            || self
                .ranges
                .get(self.first_ending_after(range.start))
                .is_some_and(|r| r.start <= range.start && r.end >= range.end)
    }

    /// Whether adding `range` (not empty) would extend or join what is there, instead of making one more range.
    pub fn touches(&self, range: &Range<u64>) -> bool {
        let next = self.ranges.get(self.ranges.partition_point(|r| r.end < range.start));
        next.is_some_and(|r| r.start <= range.end)
    }

    /// The first stretch inside `range` that is not in the set.
    pub fn first_gap(&self, range: Range<u64>) -> Option<Range<u64>> {
        let mut start = range.start;
        let mut i = self.first_ending_after(start);
        while start < range.end {
            match self.ranges.get(i) {
                Some(r) if r.start <= start => start = r.end,
                Some(r) => return Some(start..r.start.min(range.end)),
                None => return Some(start..range.end),
            }
            i += 1;
        }
        None
    }

    /// Ranges, ascending; `rev()` works.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + ExactSizeIterator + '_ {
        self.ranges.iter().cloned()
    }

    /// Ranges with a number below `end`, from the highest down.
    pub fn iter_down_from(&self, end: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let n = self.ranges.partition_point(|r| r.start < end);
        self.ranges.range(..n).rev().cloned()
    }

    /// Number of ranges.
    pub fn range_count(&self) -> usize {
        self.ranges.len()
    }

    /// Number of integers.
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|r| r.end - r.start).sum()
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Largest member.
    pub fn max(&self) -> Option<u64> {
        self.ranges.back().map(|r| r.end - 1)
    }

    /// Smallest member.
    pub fn min(&self) -> Option<u64> {
        self.ranges.front().map(|r| r.start)
    }
}
