//! Runs with crashes and faults, each a seed.

use super::*;

#[test]
fn no_rule_is_broken() {
    for seed in 0..100 {
        let outcome = run(&Plan::new(seed), false);
        assert_eq!(outcome.violation, None, "seed {seed}");
    }
}

#[test]
fn the_same_plan_runs_alike() {
    for seed in 0..10 {
        let plan = Plan::new(seed);
        let (a, b) = (run(&plan, true), run(&plan, true));
        for (x, y) in a.trace.iter().zip(&b.trace) {
            assert_eq!(x, y, "seed {seed}");
        }
        assert_eq!(a, b, "seed {seed}");
    }
}
