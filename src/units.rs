//! Role: parsing and printing of rates, sizes, durations and percentages.
//! Owns: nothing.
