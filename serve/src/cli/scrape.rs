//! Reading a daemon's `/metrics`, to show what moved.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Values by name and labels, as they stand in the text.
pub(super) type Metrics = BTreeMap<String, f64>;

/// Asks the HTTP port at `address`.
///
/// # Errors
/// Nobody answers, or not with 200.
pub(super) async fn metrics(address: SocketAddr) -> anyhow::Result<Metrics> {
    let read = async {
        let mut stream = TcpStream::connect(address).await?;
        // HTTP/1.0: the answer ends with the connection.
        stream.write_all(format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = read.await.with_context(|| format!("http://{address}/metrics"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer without a body")?;
    anyhow::ensure!(head.split(' ').nth(1) == Some("200"), "http://{address}/metrics answered: {head}");
    Ok(parse(body))
}

/// What differs, apart from the single buckets of histograms: name, before, after.
pub(super) fn moved(before: &Metrics, after: &Metrics) -> Vec<(String, f64, f64)> {
    let both = after.iter().map(|(name, &after)| (name, before.get(name).copied().unwrap_or(0.0), after));
    both.filter(|(name, before, after)| before != after && !name.contains("_bucket{"))
        .map(|(name, before, after)| (name.clone(), before, after))
        .collect()
}

/// Prometheus' text format, of which labels may hold spaces: the value is the last word.
fn parse(text: &str) -> Metrics {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let values = lines.filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    values.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_moved_is_told() {
        let before = parse("# HELP a A.\na 1\nb{x=\"y z\"} 2\nd_bucket{le=\"1\"} 0\n");
        let after = parse("a 1\nb{x=\"y z\"} 2.5\nc 1\nd_bucket{le=\"1\"} 3\n");
        let expected = [("b{x=\"y z\"}".to_owned(), 2.0, 2.5), ("c".to_owned(), 0.0, 1.0)];
        assert_eq!(moved(&before, &after), expected);
    }
}
