//! What is counted. A thread counts for itself and adds that up now and then, so that the hot path shares nothing.

use std::time::{Duration, Instant};

use crate::answer::Answered;
use crate::wire::{Asked, HEADER, Rcode, rtype, u16_at};

/// How often counts are added up.
const EVERY: Duration = Duration::from_millis(250);

/// Types that are counted by name; the rest are `other`.
const TYPES: [(u16, &str); 12] = [
    (rtype::A, "A"),
    (rtype::AAAA, "AAAA"),
    (rtype::SRV, "SRV"),
    (rtype::TXT, "TXT"),
    (rtype::PTR, "PTR"),
    (rtype::CNAME, "CNAME"),
    (rtype::NS, "NS"),
    (rtype::SOA, "SOA"),
    (rtype::HTTPS, "HTTPS"),
    (rtype::SVCB, "SVCB"),
    (rtype::MX, "MX"),
    (rtype::ANY, "ANY"),
];

const CODES: [Rcode; 9] = [
    Rcode::NoError,
    Rcode::NxDomain,
    Rcode::Refused,
    Rcode::ServFail,
    Rcode::FormErr,
    Rcode::NotImp,
    Rcode::NotAuth,
    Rcode::BadVers,
    Rcode::BadCookie,
];

/// The upper ends of the buckets of times, as labels and in microseconds. Every bucket holds those below it, as in a
/// histogram of Prometheus; they are counters, which cost the same however long nobody asks for them.
const ENDS: [(&str, u64); 12] = [
    ("0.00001", 10),
    ("0.000025", 25),
    ("0.00005", 50),
    ("0.0001", 100),
    ("0.00025", 250),
    ("0.0005", 500),
    ("0.001", 1_000),
    ("0.01", 10_000),
    ("0.1", 100_000),
    ("0.5", 500_000),
    ("2", 2_000_000),
    ("+Inf", u64::MAX),
];

/// Times that something took, by buckets.
#[derive(Default)]
pub(crate) struct Times([u64; ENDS.len()]);

impl Times {
    /// One more.
    pub(crate) fn record(&mut self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = ENDS.iter().position(|(_, end)| took <= *end).unwrap_or(ENDS.len() - 1);
        if let Some(count) = self.0.get_mut(bucket) {
            *count += 1;
        }
    }

    /// Adds up what was recorded.
    pub(crate) fn publish(&mut self, name: &'static str) {
        let mut below = 0;
        for (count, (end, _)) in self.0.iter_mut().zip(ENDS) {
            below += std::mem::take(count);
            if below > 0 {
                metrics::counter!(name, "le" => end).increment(below);
            }
        }
    }
}

/// From the arrival of datagrams to their answers.
pub(crate) const ANSWER_SECONDS: &str = "byname_dns_answer_seconds_bucket";
/// Waits for services.
pub(crate) const WAIT_SECONDS: &str = "byname_dns_wait_seconds_bucket";

/// Counts of one thread.
pub(crate) struct Counts {
    times: Times,
    answers: [[u64; CODES.len()]; TYPES.len() + 1],
    dropped: u64,
    shed: u64,
    published: Instant,
}

impl Default for Counts {
    fn default() -> Self {
        Counts {
            times: Times::default(),
            answers: [[0; CODES.len()]; TYPES.len() + 1],
            dropped: 0,
            shed: 0,
            published: Instant::now(),
        }
    }
}

impl Counts {
    /// An answer.
    pub(crate) fn count(&mut self, answered: &Answered) {
        let qtype = TYPES.iter().position(|(number, _)| *number == answered.qtype).unwrap_or(TYPES.len());
        let code = CODES.iter().position(|code| *code == answered.rcode).unwrap_or(0);
        if let Some(count) = self.answers.get_mut(qtype).and_then(|codes| codes.get_mut(code)) {
            *count += 1;
        }
    }

    /// How long the datagrams that came at once took.
    pub(crate) fn took(&mut self, took: Duration) {
        self.times.record(took);
    }

    /// An answer that was not sent: too many.
    pub(crate) fn dropped(&mut self) {
        self.dropped += 1;
    }

    /// A question that was not taken: too much waits.
    pub(crate) fn shed(&mut self) {
        self.shed += 1;
    }

    /// Adds up what was counted, when it is time.
    pub(crate) fn publish(&mut self) {
        if self.published.elapsed() >= EVERY {
            self.publish_now();
        }
    }

    /// Adds up what was counted.
    pub(crate) fn publish_now(&mut self) {
        self.published = Instant::now();
        self.times.publish(ANSWER_SECONDS);
        let names = TYPES.iter().map(|(_, name)| *name).chain(["other"]);
        for (codes, qtype) in self.answers.iter_mut().zip(names) {
            for (count, code) in codes.iter_mut().zip(CODES) {
                if *count > 0 {
                    metrics::counter!("byname_dns_queries_total", "type" => qtype, "rcode" => code.as_str())
                        .increment(std::mem::take(count));
                }
            }
        }
        if self.dropped > 0 {
            metrics::counter!("byname_dns_rate_limited_total").increment(std::mem::take(&mut self.dropped));
        }
        if self.shed > 0 {
            metrics::counter!("byname_dns_shed_total").increment(std::mem::take(&mut self.shed));
        }
    }
}

/// Counts an answer that came by another way than a thread's own: it is read again for that.
pub(crate) fn count_answer(answer: &[u8]) -> Answered {
    let mut name = Asked::default();
    let end = (answer.get(5) == Some(&1)).then(|| name.read(answer, HEADER)).flatten();
    let qtype = end.and_then(|end| u16_at(answer, end)).unwrap_or_default();
    let low = answer.get(3).map_or(0, |bits| u16::from(bits & 0xf));
    let rcode = CODES.into_iter().find(|code| *code as u16 == low).unwrap_or(Rcode::NoError);
    let answered = Answered { qtype, rcode, known: false };
    let mut counts = Counts::default();
    counts.count(&answered);
    counts.publish_now();
    answered
}

/// Says what the metrics mean.
pub(crate) fn describe() {
    metrics::describe_counter!("byname_dns_queries_total", "DNS queries answered, by type and response code.");
    metrics::describe_counter!("byname_dns_rate_limited_total", "DNS answers that were not sent for the rate limit.");
    metrics::describe_counter!("byname_dns_shed_total", "DNS queries that were not taken because too many waited.");
    metrics::describe_counter!("byname_dns_starts_total", "Waits for services that DNS queries asked for, by outcome.");
    metrics::describe_counter!("byname_dns_transfers_total", "Transfers of the DNS zone, by outcome.");
    metrics::describe_counter!("byname_dns_signatures_refused_total", "DNS messages whose signature did not count.");
    metrics::describe_counter!("byname_dns_forwarded_total", "DNS queries that were forwarded, by outcome.");
    metrics::describe_gauge!("byname_dns_names", "Names in the DNS, those that only lead to others included.");
    metrics::describe_gauge!("byname_dns_tcp_connections", "Open DNS connections over TCP.");
    metrics::describe_counter!(
        ANSWER_SECONDS,
        "Times from the arrival of DNS queries over UDP, as many as came at once, to their answers."
    );
    metrics::describe_counter!(WAIT_SECONDS, "Times that DNS queries waited for a start.");
}
