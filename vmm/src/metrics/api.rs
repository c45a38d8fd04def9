//! How often the API was asked for what, and how often it refused.

use devices::counters;

use super::{Snapshot, cut};

/// The methods that a request can have.
const METHODS: &str = "GET PUT PATCH DELETE POST";
/// What the first part of a path can be; the last one, which is none, stands for all others.
const ENDPOINTS: &str = " actions balloon boot-source cpu-config drives entropy events logger machine-config metrics mmds \
                         network-interfaces serial version vm vsock *";
const METHOD_COUNT: usize = 5;
const ENDPOINT_COUNT: usize = 18;

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
        let place = |list: &str, word| list.split(' ').position(|it| it == word);
        Self {
            method: place(METHODS, method).unwrap_or(0),
            endpoint: place(ENDPOINTS, first).unwrap_or(ENDPOINT_COUNT - 1),
        }
    }
}

counters! {
    /// Requests with one method at one endpoint.
    struct One {
        /// How often it was asked for.
        requests,
        /// How often that was refused.
        failures,
        /// How often it was asked in a way that will go away.
        deprecated,
    }
}

/// The counters; the API's thread writes them.
#[derive(Debug, Default)]
pub struct ApiCounters([[One; ENDPOINT_COUNT]; METHOD_COUNT]);

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

    /// Writes down what was ever asked for.
    #[inline(never)]
    pub fn count_into(&self, snapshot: &mut Snapshot) {
        let mut methods = METHODS;
        for row in &self.0 {
            let (method, mut endpoints) = (cut(&mut methods, ' '), ENDPOINTS);
            for one in row {
                let endpoint = cut(&mut endpoints, ' ');
                if one.requests.get() > 0 {
                    let path = ["/", endpoint].concat();
                    let labels = [("method", method), ("endpoint", path.as_str())];
                    snapshot.push("api", &labels, one.read(), Vec::new());
                }
            }
        }
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
    use crate::life_cycle::Phase;
    use crate::metrics::Subject;

    #[test]
    fn the_lists_are_as_long_as_the_table() {
        assert_eq!(METHODS.split(' ').count(), METHOD_COUNT);
        assert_eq!(ENDPOINTS.split(' ').count(), ENDPOINT_COUNT);
    }

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
        let mut snapshot = Snapshot::new("x", Phase::Running);
        counters.count_into(&mut snapshot);
        let row = |it: &Subject| {
            let labels: Vec<_> = it.labels.iter().map(|(_, text)| text.as_str()).collect();
            let numbers = ["requests", "failures", "deprecated"].map(|name| it.numbers.get(name));
            (labels.concat(), numbers.map(Option::unwrap))
        };
        let rows: Vec<_> = snapshot.of("api").map(row).collect();
        let expected = [("GET/", [1, 0, 0]), ("GET/*", [1, 0, 0]), ("PUT/drives", [2, 1, 0])];
        let expected = expected.map(|(labels, numbers)| (labels.to_owned(), numbers));
        assert_eq!(rows, expected);
    }
}
