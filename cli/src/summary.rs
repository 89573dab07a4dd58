//! The counters of all processes of a run, for a person.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Adds the lines of `UKTLS_STATS_FILE` up, and says what they come to.
pub fn of(lines: &str) -> String {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    let mut processes = 0;
    for line in lines.lines() {
        let Ok(serde_json::Value::Object(counters)) = serde_json::from_str(line) else {
            continue;
        };
        processes += 1;
        for (name, value) in counters {
            let value = value.as_u64().unwrap_or(0);
            let sum = sums.entry(name).or_default();
            *sum = sum.saturating_add(value);
        }
    }
    let of = |name: &str| sums.get(name).copied().unwrap_or(0);
    let mut text = format!("uktls: {processes} process(es) had connections or were looked at\n");
    let connections = [("sent", "tx"), ("received", "rx")];
    for (what, direction) in connections {
        let (taken, records, bytes) = (
            of(&format!("{direction}_sw")),
            of(&format!("{direction}_records")),
            of(&format!("{direction}_bytes")),
        );
        let _ = writeln!(
            text,
            "  {what:9} {taken} connections, {records} records, {bytes} bytes"
        );
    }
    let _ = writeln!(
        text,
        "  left alone {} sockets, broken {} connections",
        of("declined"),
        of("errors")
    );
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn processes_add_up() {
        let lines = "{\"pid\":1,\"tx_sw\":2,\"tx_bytes\":10,\"declined\":1}\nnot json\n{\"pid\":2,\"tx_sw\":3,\"tx_bytes\":5}\n";
        let text = super::of(lines);
        assert!(text.starts_with("uktls: 2 process(es)"), "{text}");
        assert!(
            text.contains("5 connections, 0 records, 15 bytes"),
            "{text}"
        );
        assert!(text.contains("left alone 1 sockets, broken 0"), "{text}");
    }
}
