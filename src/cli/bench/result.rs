//! Role: the figures of a sweep, as they are kept, printed as JSON and read back.
//! Owns: nothing; plain values.
//! Implements: the JSON of `fulmar bench --json`, and what `fulmar bench report` reads.

use serde::{Deserialize, Serialize};

/// What RFC 791 and RFC 768 headers, our own header and tag leave of a packet of 1,500 bytes: 63 bytes less.
pub const HEADER_SHARE: f64 = 0.958;

/// One upload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// Seed of this run.
    pub seed: u64,
    /// File bytes.
    pub bytes: u64,
    /// From the first packet to the receiver's confirmation, seconds.
    pub elapsed_s: f64,
    /// File bits a second.
    pub goodput_bits_per_sec: u64,
    /// Smallest round trip.
    pub min_rtt_ms: Option<f64>,
    /// Mean of the smoothed round trip.
    pub rtt_ms: Option<f64>,
    /// Mean wait before the bottleneck; against a real server, mean round trip less the smallest.
    pub queue_ms: Option<f64>,
    /// The longest wait before the bottleneck (simulation only).
    pub queue_most_ms: Option<f64>,
    /// Packets sent.
    pub packets_sent: u64,
    /// Packets sent that carry something sent before.
    pub packets_repaired: u64,
    /// Packets declared lost.
    pub packets_lost: u64,
    /// Share of packets lost, percent.
    pub loss_pct: f64,
    /// UDP payload bytes sent.
    pub wire_bytes_sent: u64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// 0, or what `fulmar put` would have ended with.
    pub exit_code: u8,
}

impl Run {
    /// Repairs in percent of the packets sent.
    pub fn repaired_pct(&self) -> f64 {
        100.0 * self.packets_repaired as f64 / self.packets_sent.max(1) as f64
    }
}

/// An object of `fulmar put --json`, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Put {
    bytes: u64,
    elapsed_s: f64,
    goodput_bits_per_sec: u64,
    min_rtt_ms: Option<f64>,
    smoothed_rtt_ms: Option<f64>,
    packets_sent: u64,
    packets_repaired: u64,
    packets_lost: u64,
    loss_pct: f64,
    wire_bytes_sent: u64,
    error: Option<String>,
    exit_code: u8,
}

impl From<Put> for Run {
    fn from(put: Put) -> Self {
        Self {
            seed: 0,
            bytes: put.bytes,
            elapsed_s: put.elapsed_s,
            goodput_bits_per_sec: put.goodput_bits_per_sec,
            min_rtt_ms: put.min_rtt_ms,
            rtt_ms: put.smoothed_rtt_ms,
            queue_ms: None,
            queue_most_ms: None,
            packets_sent: put.packets_sent,
            packets_repaired: put.packets_repaired,
            packets_lost: put.packets_lost,
            loss_pct: put.loss_pct,
            wire_bytes_sent: put.wire_bytes_sent,
            error: put.error,
            exit_code: put.exit_code,
        }
    }
}

/// What was measured at one value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Point {
    /// The value, for people.
    pub value: String,
    /// The value: bytes, or percent; nothing for a name.
    pub number: Option<f64>,
    /// What the link and the window should give.
    pub expected_bits_per_sec: Option<u64>,
    /// All uploads.
    pub runs: Vec<Run>,
    /// Read only: uploads by `fulmar put`, which become `runs`.
    #[serde(skip_serializing)]
    pub puts: Vec<Put>,
}

impl Point {
    /// The run that stands for all: the median by goodput (the lower one of two), failures counted as the slowest.
    pub fn median(&self) -> Run {
        let mut order: Vec<&Run> = self.runs.iter().collect();
        order.sort_by_key(|run| (run.error.is_none(), run.goodput_bits_per_sec));
        order.get(order.len().saturating_sub(1) / 2).map(|run| (*run).clone()).unwrap_or_default()
    }
}

/// What is known of the link.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Link {
    /// Rate in bits a second, counting IP bytes.
    pub rate_bits_per_sec: Option<u64>,
    /// Round trip without any queue.
    pub rtt_ms: Option<f64>,
    /// Loss each way, percent.
    pub loss_pct: Option<f64>,
    /// Longest wait before the bottleneck.
    pub queue_ms: Option<f64>,
}

impl Link {
    /// Bandwidth-delay product, bytes.
    pub fn bdp_bytes(&self) -> Option<u64> {
        Some((self.rate_bits_per_sec? as f64 / 8.0 * self.rtt_ms? / 1e3) as u64)
    }

    /// `min(window / RTT, rate) x (1 - loss) x` [`HEADER_SHARE`], as far as these are known.
    pub fn expected_bits_per_sec(&self, window_bytes: Option<u64>) -> Option<u64> {
        let rate = self.rate_bits_per_sec.map_or(f64::INFINITY, |rate| rate as f64);
        let by_window = match (window_bytes, self.rtt_ms) {
            (Some(bytes), Some(ms)) if ms > 0.0 => bytes as f64 * 8e3 / ms,
            _ => f64::INFINITY,
        };
        let bound = rate.min(by_window) * (1.0 - self.loss_pct.unwrap_or(0.0) / 100.0) * HEADER_SHARE;
        bound.is_finite().then_some(bound as u64)
    }
}

/// One sweep.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sweep {
    /// Always `bench`.
    pub command: String,
    /// `window`, `loss`, `chunk`, `cc`, or another name, whose values are names then.
    pub sweep: String,
    /// A heading, where the name is not enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// `simulation`, or the server.
    pub link_kind: String,
    /// The link.
    pub link: Link,
    /// Rate times RTT.
    pub bdp_bytes: Option<u64>,
    /// `--window`
    pub window_bytes: Option<u64>,
    /// `--cc`
    pub cc: String,
    /// `--chunk-size`
    pub chunk_bytes: Option<u64>,
    /// `--seed`
    pub seed: u64,
    /// One for each value, in order.
    pub points: Vec<Point>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The exit code.
    pub exit_code: u8,
}

impl Sweep {
    /// The heading.
    pub fn heading(&self) -> String {
        let of = match self.sweep.as_str() {
            "window" => "Window sizes",
            "loss" => "Loss",
            "chunk" => "Chunk sizes",
            "cc" => "Rate control",
            other => other,
        };
        self.title.clone().unwrap_or_else(|| of.to_owned())
    }

    /// What a value is called.
    pub fn column(&self) -> &str {
        if self.sweep.is_empty() { "value" } else { &self.sweep }
    }

    /// Takes the highest exit code of the runs, and the first error if there is none yet.
    pub fn conclude(&mut self) {
        let runs = self.points.iter().flat_map(|p| &p.runs);
        self.exit_code = runs.clone().map(|run| run.exit_code).max().unwrap_or(0).max(self.exit_code);
        if self.error.is_none() {
            self.error = runs.clone().find_map(|run| run.error.clone());
        }
    }

    /// Uploads by `fulmar put` become runs like any other.
    pub fn take_puts(&mut self) {
        for point in &mut self.points {
            let puts = std::mem::take(&mut point.puts);
            point.runs.extend(puts.into_iter().map(Run::from));
        }
        self.bdp_bytes = self.bdp_bytes.or_else(|| self.link.bdp_bytes());
        self.conclude();
    }
}

/// What a file of results may hold.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Saved {
    /// Several sweeps under one title.
    Many {
        /// The title.
        #[serde(default)]
        title: String,
        /// The sweeps.
        sweeps: Vec<Sweep>,
    },
    /// One, as `--json` prints it.
    One(Box<Sweep>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectation_is_the_smaller_of_window_and_rate() {
        let link = Link {
            rate_bits_per_sec: Some(100_000_000),
            rtt_ms: Some(100.0),
            loss_pct: Some(1.0),
            queue_ms: None,
        };
        assert_eq!(link.bdp_bytes(), Some(1_250_000));
        assert_eq!(link.expected_bits_per_sec(None), Some((1e8 * 0.99 * 0.958) as u64));
        let small = link.expected_bits_per_sec(Some(16_384)).expect("known");
        assert!((small as f64 - 16_384.0 * 80.0 * 0.99 * 0.958).abs() <= 1.0, "{small}");
        assert_eq!(Link::default().expected_bits_per_sec(Some(1)), None);
    }

    #[test]
    fn the_median_stands_for_all_and_failures_are_slowest() {
        let run = |goodput_bits_per_sec, error: Option<&str>| Run {
            goodput_bits_per_sec,
            error: error.map(str::to_owned),
            ..Run::default()
        };
        let runs = vec![run(30, None), run(90, Some("x")), run(20, None)];
        let point = Point { runs, ..Point::default() };
        assert_eq!(point.median().goodput_bits_per_sec, 20);
        assert_eq!(Point::default().median(), Run::default());
    }

    #[test]
    fn objects_of_put_become_runs() {
        let text = r#"{"title":"t","sweeps":[{"sweep":"profile","points":[{"value":"lte","puts":[
            {"command":"put","files":[],"bytes":7,"elapsed_s":2.0,"goodput_bits_per_sec":28,"min_rtt_ms":3.5,
             "error":"lost","exit_code":3}]}]}]}"#;
        let Saved::Many { title, mut sweeps } = serde_json::from_str(text).expect("valid") else {
            panic!("a list of sweeps");
        };
        sweeps[0].take_puts();
        assert_eq!((title.as_str(), sweeps[0].exit_code), ("t", 3));
        assert_eq!(sweeps[0].error.as_deref(), Some("lost"));
        let run = sweeps[0].points[0].median();
        assert_eq!((run.bytes, run.min_rtt_ms), (7, Some(3.5)));
        // What is printed can be read again.
        let again = serde_json::to_string(&sweeps[0]).expect("valid");
        let Saved::One(again) = serde_json::from_str(&again).expect("valid") else { panic!("one sweep") };
        assert_eq!(*again, sweeps[0]);
    }
}
