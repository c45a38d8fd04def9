//! How often the API was asked for what, and how often it refused.

use devices::metrics::Counter;

/// The methods that a request can have.
const METHODS: [&str; 4] = ["GET", "PUT", "PATCH", "DELETE"];
/// What the first part of a path can be; the last one stands for all others.
const ENDPOINTS: [&str; 18] = [
    "",
    "actions",
    "balloon",
    "boot-source",
    "cpu-config",
    "drives",
    "entropy",
    "events",
    "logger",
    "machine-config",
    "metrics",
    "mmds",
    "network-interfaces",
    "serial",
    "version",
    "vm",
    "vsock",
    "other",
];

/// What a request is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    method: usize,
    endpoint: usize,
}

impl Asked {
    /// A request with this method for this path.
    #[must_use]
    pub fn new(method: &str, path: &str) -> Self {
        let path = path.split('?').next().unwrap_or_default();
        let first = path.split('/').find(|part| !part.is_empty()).unwrap_or_default();
        let place = |list: &[&str], word| list.iter().position(|it| *it == word);
        Self {
            method: place(&METHODS, method).unwrap_or(0),
            endpoint: place(&ENDPOINTS, first).unwrap_or(ENDPOINTS.len() - 1),
        }
    }
}

#[derive(Debug, Default)]
struct One {
    requests: Counter,
    failures: Counter,
    deprecated: Counter,
}

/// The counters; the API's thread writes them.
#[derive(Debug, Default)]
pub struct ApiCounters([[One; ENDPOINTS.len()]; METHODS.len()]);

/// What was asked for with one method at one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestCounts {
    /// The method.
    pub method: &'static str,
    /// The first part of the path, or "other" for what does not exist.
    pub endpoint: &'static str,
    /// How often it was asked for.
    pub requests: u64,
    /// How often that was refused.
    pub failures: u64,
    /// How often it was asked in a way that will go away.
    pub deprecated: u64,
}

impl ApiCounters {
    /// A request came.
    pub fn count(&self, asked: Asked) {
        self.at(asked, |one| one.requests.add(1));
    }

    /// A request was answered.
    pub fn count_outcome(&self, asked: Asked, is_success: bool, is_deprecated: bool) {
        self.at(asked, |one| {
            one.failures.add(u64::from(!is_success));
            one.deprecated.add(u64::from(is_deprecated));
        });
    }

    /// What was ever asked for.
    #[must_use]
    pub fn read(&self) -> Vec<RequestCounts> {
        let mut all = Vec::new();
        for (method, row) in METHODS.into_iter().zip(&self.0) {
            for (endpoint, one) in ENDPOINTS.into_iter().zip(row) {
                let requests = one.requests.get();
                if requests > 0 {
                    let (failures, deprecated) = (one.failures.get(), one.deprecated.get());
                    all.push(RequestCounts { method, endpoint, requests, failures, deprecated });
                }
            }
        }
        all
    }

    fn at(&self, asked: Asked, change: impl FnOnce(&One)) {
        if let Some(one) = self.0.get(asked.method).and_then(|row| row.get(asked.endpoint)) {
            change(one);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_method_and_first_part() {
        let counters = ApiCounters::default();
        for (method, path) in
            [("GET", "/"), ("PUT", "/drives/a"), ("PUT", "//drives/b?x"), ("GET", "/nowhere/vm")]
        {
            counters.count(Asked::new(method, path));
        }
        counters.count_outcome(Asked::new("PUT", "/drives"), false, false);
        counters.count_outcome(Asked::new("PUT", "/drives"), true, false);
        let rows: Vec<_> = counters
            .read()
            .iter()
            .map(|it| (it.method, it.endpoint, it.requests, it.failures))
            .collect();
        let expected = [("GET", "", 1, 0), ("GET", "other", 1, 0), ("PUT", "drives", 2, 1)];
        assert_eq!(rows, expected);
    }
}
