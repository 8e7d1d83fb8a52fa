//! What the ranks said to each other in the steps of a run, beside what the plan said they would.

use std::collections::{BTreeMap, VecDeque};

use comm::{Communicator, Operation, Traffic};
use serde_json::{Value, json};

use crate::engine::gather_f64;

/// Totals of one rank over the steps made since this start.
#[derive(Default)]
pub(crate) struct StepTraffic {
    steps: u64,
    measured: BTreeMap<(&'static str, Operation), Totals>,
    /// By the plan's formulas, from the lengths of the micro-batches.
    planned: plan::Moved,
    before: BTreeMap<(&'static str, Operation), Totals>,
    /// Seconds waited for θ's gradient, and of the whole step, of the last steps.
    all_reduces: VecDeque<[f64; 2]>,
}

/// Steps of which the all-reduce is remembered one by one.
const REMEMBERED: usize = 1024;

#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    calls: u64,
    bytes: u64,
    waited_seconds: f64,
}

impl StepTraffic {
    /// A step begins.
    pub(crate) fn begin(&mut self, comm: &dyn Communicator) {
        self.before = totals(&comm.traffic());
    }

    /// The step, with its records, is over; so much was planned for it, and it took so many seconds.
    pub(crate) fn end(&mut self, comm: &dyn Communicator, planned: plan::Moved, step_seconds: f64) {
        self.steps += 1;
        let mut all_reduce = 0.0;
        self.planned += planned;
        for (key, now) in totals(&comm.traffic()) {
            let before = self.before.get(&key).copied().unwrap_or_default();
            let sum = self.measured.entry(key).or_default();
            sum.calls += now.calls - before.calls;
            sum.bytes += now.bytes - before.bytes;
            sum.waited_seconds += now.waited_seconds - before.waited_seconds;
            if key == ("world", Operation::AllReduce) {
                all_reduce += now.waited_seconds - before.waited_seconds;
            }
        }
        if self.all_reduces.len() == REMEMBERED {
            self.all_reduces.pop_front();
        }
        self.all_reduces.push_back([all_reduce, step_seconds]);
    }

    /// Collective. The median over steps of what the all-reduce of θ's gradient takes from when the last rank is there,
    /// which is the one that waits least, in seconds and as a share of the step. Nothing before there was a step.
    fn all_reduce(&self, comm: &dyn Communicator) -> Value {
        let own: Vec<f64> = self.all_reduces.iter().flatten().copied().collect();
        let all = gather_f64(comm, &own);
        let step = |at: usize| {
            let of_ranks = all.iter().filter_map(|rank| rank.get(2 * at..2 * at + 2));
            of_ranks.map(|of_rank| (of_rank[0], of_rank[0] / of_rank[1])).min_by(|a, b| a.0.total_cmp(&b.0))
        };
        let (seconds, shares): (Vec<f64>, Vec<f64>) = (0..self.all_reduces.len()).filter_map(step).unzip();
        json!({"median_seconds": median(seconds), "median_share_of_step": median(shares)})
    }

    /// Collective. Every rank's totals, by rank; nothing for a rank alone. `all_reduce_bytes` is the length of θ's
    /// gradient with its flag.
    pub(crate) fn gather(&self, comm: &dyn Communicator, all_reduce_bytes: u64) -> Value {
        if comm.size() == 1 {
            return Value::Null;
        }
        let line = |((axis, operation), totals): (&(&'static str, Operation), &Totals)| {
            json!({
                "axis": axis, "operation": operation.name(), "calls": totals.calls, "bytes": totals.bytes,
                "waited_seconds": totals.waited_seconds,
            })
        };
        let measured: Vec<Value> =
            self.measured.iter().filter(|(_, totals)| totals.calls > 0).map(line).collect();
        let planned = json!([
            {"axis": "world", "operation": "all-reduce", "bytes": self.steps * all_reduce_bytes},
            {"axis": "dp-shard", "operation": "all-gather", "bytes": self.planned.gathered},
            {"axis": "pp", "operation": "send", "bytes": self.planned.sent},
            {"axis": "pp", "operation": "receive", "bytes": self.planned.received},
        ]);
        let own = json!({"rank": comm.rank(), "measured": measured, "planned": planned});
        let all = comm.all_gather(own.to_string().as_bytes());
        let ranks: Vec<Value> =
            all.iter().map(|text| serde_json::from_slice(text).unwrap_or(Value::Null)).collect();
        json!({"steps": self.steps, "all_reduce": self.all_reduce(comm), "ranks": ranks})
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn totals(traffic: &[Traffic]) -> BTreeMap<(&'static str, Operation), Totals> {
    let entry = |line: &Traffic| {
        let Traffic { calls, bytes, waited_seconds, .. } = *line;
        ((line.axis, line.operation), Totals { calls, bytes, waited_seconds })
    };
    traffic.iter().map(entry).collect()
}

/// Collective. The most memory that each rank's process ever held, bytes by rank; 0 where the system does not tell.
pub(crate) fn peak_memory(comm: &dyn Communicator) -> Vec<u64> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    let own = kilobytes.unwrap_or(0) * 1024;
    let all = comm.all_gather(&own.to_le_bytes());
    all.iter().map(|bytes| u64::from_le_bytes(std::array::from_fn(|i| bytes[i]))).collect()
}
